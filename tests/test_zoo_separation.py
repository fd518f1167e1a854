"""Whether the benchmark separates methods, on runs of two documents a task.

Two differences ``mean + error`` and ``mean - error`` have just that mean and standard error.
"""

import math
from dataclasses import replace
from statistics import mean, variance

import numpy as np
import pytest

from eval.results import Record, Sample, Score, write_record
from eval.statistics.stats import Estimate
from eval.zoo.separation import Claim, Run, best_lam, claims, gap_closed, read_runs

EXPERTS = {"code": "code", "mathematics": "numbers"}
DOMAINS = {
    "zoo_code_order": "code",
    "zoo_code_bits": "code",
    "zoo_numbers_answer": "numbers",
    "zoo_numbers_bits": "numbers",
}


def run(name, code, numbers, *, lam=None, order=(0.5, 0.5), answer=(0.5, 0.5)):
    """A run: the two documents' scores on the bits of code and numbers, and on the others."""
    values = dict(zip(DOMAINS, (order, code, answer, numbers), strict=True))
    record = Record(
        fingerprint=f"{name}{lam}",
        kind="reference" if name in {"base", *EXPERTS} else "merge",
        status="done",
        name=name,
        settings={} if lam is None else {"lam": lam},
        models={},
        suite={"name": "zoo", "split": "test"},
        seed=0,
        dtype=None,
        scores={task: score(task, pair) for task, pair in values.items()},
        domains=DOMAINS,
        merge_cost=None,
        evaluation_cost=None,
        merge={},
        error=None,
        provenance={},
        started_at="2025-01-01T00:00:00Z",
        seconds_total=1.0,
    )
    return Run(record=record, values={task: np.array(pair) for task, pair in values.items()})


def score(task, pair):
    metric = "bits_per_byte" if task.endswith("_bits") else "acc"
    return Score(
        value=mean(pair),
        stderr=0.0,
        n=2,
        raw=0.0,
        raw_metric=metric,
        higher_is_better=metric == "acc",
    )


BASE = run("base", (0.25, 0.25), (0.5, 0.25))
CODE = run("code", (0.375, 0.625), (0.0, 0.0))  # + 0.125 and + 0.375 on code
MATHEMATICS = run("mathematics", (0.0, 0.0), (0.75, 0.5))  # + 0.25 twice on numbers
REFERENCES = [BASE, CODE, MATHEMATICS]


def test_the_base_closes_nothing_and_every_experts_scores_close_all_without_error():
    everything = run("all", (0.375, 0.625), (0.75, 0.5))
    assert gap_closed(BASE, REFERENCES, EXPERTS) == Estimate(value=0.0, stderr=0.0)
    assert gap_closed(everything, REFERENCES, EXPERTS) == Estimate(value=1.0, stderr=0.0)


def test_half_the_gap_is_closed_with_the_error_of_a_ratio_over_paired_documents():
    merge = run("half", (0.375, 0.375), (0.6875, 0.3125), order=(1.0, 1.0), answer=(0.0, 0.0))
    # gains: code 0.125, 0.125; numbers 0.1875, 0.0625. Their means sum to 0.25 of a gap of 0.5.
    closed = gap_closed(merge, REFERENCES, EXPERTS)
    assert closed.value == 0.5
    # what the gains are beyond half of the experts': code 0.0625, -0.0625; numbers the same
    residuals = [[0.0625, -0.0625], [0.0625, -0.0625]]
    direct = math.sqrt(sum(variance(r) / 2 for r in residuals)) / 0.5
    assert closed.stderr == pytest.approx(direct) == pytest.approx(0.125 * math.sqrt(2))


def test_a_merge_worse_than_the_base_closes_less_than_nothing():
    merge = run("worse", (0.125, 0.125), (0.5, 0.25))
    assert gap_closed(merge, REFERENCES, EXPERTS).value == -0.25


def test_the_best_lam_closes_the_largest_share_and_is_of_task_arithmetic():
    tried = [
        run("task_arithmetic", (0.3, 0.3), (0.5, 0.25), lam=0.25),
        run("task_arithmetic", (0.45, 0.45), (0.5, 0.25), lam=0.5),
        run("task_arithmetic", (0.35, 0.35), (0.5, 0.25), lam=1.0),
        run("ties", (0.5, 0.5), (0.75, 0.5), lam=2.0),
    ]
    for runs in (tried, tried[::-1]):
        assert best_lam([*runs, *REFERENCES], EXPERTS) == 0.5


DEFAULTS = {"task_arithmetic": 0.25, "slerp": None, "ties": 1.0}


@pytest.fixture
def judged():
    """Runs of which every claim holds, by name and lam."""
    runs = [
        run("base", (0.25, 0.25), (0.25, 0.25)),
        run("code", (0.78125, 0.71875), (0.25, 0.25)),  # + 0.5 with error 1/32: 16 errors
        run("mathematics", (0.25, 0.25), (0.78125, 0.71875)),
        run("task_arithmetic", (0.5, 0.5), (0.5, 0.5), lam=0.5),
        run("task_arithmetic", (0.4375, 0.4375), (0.5, 0.5), lam=0.25),
        run("slerp", (0.5, 0.5), (0.5, 0.5)),
        run("ties", (0.40625, 0.34375), (0.5, 0.5), lam=1.0),  # slerp - 1/8, error 1/32: 4
    ]
    return {(r.record.name, r.record.settings.get("lam")): r for r in runs}


def failed(judged, *changed):
    """The claims that do not hold once these runs replace those of their name and lam."""
    runs = judged | {(r.record.name, r.record.settings.get("lam")): r for r in changed}
    found = claims(list(runs.values()), EXPERTS, lam=0.5, default_lams=DEFAULTS)
    return [claim.claim for claim in found if not claim.holds]


def test_every_claim_holds_of_a_benchmark_that_separates(judged):
    found = claims(list(judged.values()), EXPERTS, lam=0.5, default_lams=DEFAULTS)
    assert {c.claim: c.found.value for c in found} == {
        "code - base on zoo_code_order": 0.0,
        "code - base on zoo_code_bits": 0.5,
        "mathematics - base on zoo_numbers_answer": 0.0,
        "mathematics - base on zoo_numbers_bits": 0.5,
        "share of the gap closed by task arithmetic, lam 0.5 from validation": 0.5,
        "best method (slerp) - worst (ties), all tasks": 1 / 32,  # 1/8 on one task of four
    }
    assert all(c.holds for c in found)
    assert [bool(c.needed) for c in found] == [False, True, False, True, True, True]
    assert [found[1].sigmas, found[5].sigmas] == pytest.approx([16, 4])


@pytest.mark.parametrize(
    ("scores", "holds"),
    [
        ((0.25, 0.25), False),  # no better, no error
        ((0.40625, 0.34375), False),  # + 1/8, error 1/32: 4 errors
        ((0.46875, 0.40625), True),  # + 3/16, error 1/32: 6 errors
        ((0.1875, 0.21875), False),  # worse
    ],
)
def test_an_expert_must_be_five_errors_better_on_the_bits_of_its_domain(judged, scores, holds):
    broken = failed(judged, run("code", scores, (0.25, 0.25)))
    assert ("code - base on zoo_code_bits" not in broken) is holds


def test_an_expert_that_is_worse_on_another_task_of_its_domain_breaks_no_claim(judged):
    worse = run("code", (0.78125, 0.71875), (0.25, 0.25), order=(0.0, 0.0))
    assert failed(judged, worse) == []


GAP = "share of the gap closed by task arithmetic, lam 0.5 from validation"


@pytest.mark.parametrize(("share", "broken"), [(0.39, [GAP]), (0.41, [])])
def test_at_least_40_percent_of_the_gap_must_be_closed(judged, share, broken):
    # the same share of every document's gap: no error
    scores = (0.25 + share * 0.53125, 0.25 + share * 0.46875)
    assert failed(judged, run("task_arithmetic", scores, scores, lam=0.5)) == broken


@pytest.mark.parametrize(("error", "broken"), [(0.125, []), (0.25, [GAP])])
def test_the_share_must_be_three_errors_from_zero(judged, error, broken):
    # half of a gap of 1; the experts' own errors, halved, move this one by 1/64: 4.5 or 2.1
    scores = (0.5 + error, 0.5 - error)
    assert failed(judged, run("task_arithmetic", scores, (0.5, 0.5), lam=0.5)) == broken


def test_methods_no_further_apart_than_noise_break_the_last_claim(judged):
    # 1/8 below slerp with an error of 1/16: 2 errors
    noisy = run("ties", (0.4375, 0.3125), (0.5, 0.5), lam=1.0)
    assert failed(judged, noisy) == ["best method (slerp) - worst (ties), all tasks"]


def test_a_finding_without_error_has_no_distance_in_errors():
    claim = Claim(claim="", found=Estimate(value=0.5, stderr=0.0), needed="", holds=True)
    assert math.isnan(claim.sigmas)


def test_finished_runs_of_the_suite_are_read_with_documents_in_the_order_of_their_hashes(
    tmp_path,
):
    samples = {
        "zoo_code_bits": [
            Sample(doc_id=0, doc_hash="b", value=0.75),
            Sample(doc_id=1, doc_hash="a", value=0.25),
        ]
    }
    done = BASE.record
    others = [
        replace(done, name="other", suite={"name": "tiny", "split": "test"}),
        replace(done, name="merged", suite=None),
        replace(done, name="broken", status="failed", error="no memory"),
    ]
    for record in (done, *others):
        write_record(tmp_path, record, samples)
    [found] = read_runs(tmp_path, suite="zoo")
    assert found.record == done
    assert {task: v.tolist() for task, v in found.values.items()} == {
        "zoo_code_bits": [0.25, 0.75]
    }
