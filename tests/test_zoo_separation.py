"""Claims about the separation of methods, on runs of 100 documents per task.

Documents of rolling tasks have 8 bytes each by default, so that a task's score is 2 to
the power of minus the mean bits per byte.
"""

import math
from dataclasses import replace
from statistics import mean, stdev

import pytest

from eval.records import write_record
from eval.sample_file import Sample
from eval.statistics.scores import Estimate, byte_likelihood, byte_likelihood_score, raw_score
from scripts.zoo.separation import Claim, best_lam, claims, read_runs, share_closed
from tests.made_up_runs import make_record, run_with

EXPERTS = {"code": "code", "mathematics": "numbers"}
DOMAINS = {
    "zoo_code_order": "code",
    "zoo_code_bits": "code",
    "zoo_numbers_answer": "numbers",
    "zoo_numbers_bits": "numbers",
}
N = 100
SIGNS = [(-1) ** i for i in range(N)]


def rolling(bits, n_bytes):
    """Samples of documents with these bits per byte."""
    return [
        Sample(
            doc_id=i, doc_hash=f"h{i}", value=byte_likelihood(-b * n * math.log(2), n),
            loglikelihood=-b * n * math.log(2), n_bytes=n,
        )
        for i, (b, n) in enumerate(zip(bits, n_bytes, strict=True))
    ]  # fmt: skip


def answers(share):
    """Samples of which the first ones are right."""
    return [Sample(doc_id=i, doc_hash=f"h{i}", value=float(i < share * N)) for i in range(N)]


def record_and_samples(
    name, code, numbers, *, lam=None, order=0.5, answer=0.5, noise=0.0, sizes=(8,) * N
):
    """Record and samples with these bits of code and numbers; ``noise`` alternates on code."""
    each = code if isinstance(code, list) else [code + noise * sign for sign in SIGNS]
    by_task = (
        answers(order),
        rolling(each, sizes),
        answers(answer),
        rolling([numbers] * N, sizes),
    )
    samples = dict(zip(DOMAINS, by_task, strict=True))
    scores = {
        task: byte_likelihood_score(s) if task.endswith("bits") else raw_score(s, metric="acc")
        for task, s in samples.items()
    }
    record = make_record(
        name, scores, fingerprint=f"{name}-{lam}-0123456789", evaluation_cost=None,
        kind="reference" if name in {"base", *EXPERTS} else "merge",
        settings={} if lam is None else {"lam": lam}, domains=DOMAINS,
    )  # fmt: skip
    return record, samples


def run(*bits, **options):
    return run_with(*record_and_samples(*bits, **options))


BASE = run("base", 2, 3)  # 1/4 on code, 1/8 on numbers
CODE = run("code", 1, 4)  # 1/2 on code
MATHEMATICS = run("mathematics", 4, 1)  # 1/2 on numbers: a gap of 5/8 in all
REFERENCES = [BASE, CODE, MATHEMATICS]


def test_share_closed_is_zero_for_the_base_and_one_for_all_experts():
    closed = share_closed(BASE, REFERENCES, EXPERTS)
    assert (closed.value, closed.stderr) == (pytest.approx(0.0), pytest.approx(0.0))
    closed = share_closed(run("all", 1, 1), REFERENCES, EXPERTS)
    assert (closed.value, closed.stderr) == (pytest.approx(1.0), pytest.approx(0.0))


def test_share_closed_uses_headline_scores():
    # half of the documents have 1 bit per byte on 24 bytes, half 5 on 8: 2 bits, the base's
    sizes = [24 if sign < 0 else 8 for sign in SIGNS]
    references = [
        run("base", 2, 3, sizes=sizes), run("code", 1, 4, sizes=sizes),
        run("mathematics", 4, 1, sizes=sizes),
    ]  # fmt: skip
    merge = run("ties", 3, 3, noise=2, sizes=sizes)
    _, samples = record_and_samples("ties", 3, 3, noise=2, sizes=sizes)
    assert mean(s.value for s in samples["zoo_code_bits"]) > 0.26
    assert share_closed(merge, references, EXPERTS).value == pytest.approx(0)


def test_share_closed_has_the_paired_error():
    merge = run("ties", 2, 1, noise=0.5)
    closed = share_closed(merge, REFERENCES, EXPERTS)
    assert closed.value == pytest.approx(0.375 / 0.625)
    # delta method: the score's derivative by its bits is its value times log 2
    error = 0.25 * math.log(2) * stdev(0.5 * sign for sign in SIGNS) / N**0.5
    assert closed.stderr == pytest.approx(error / 0.625, rel=0.05)


def test_share_closed_can_be_negative():
    assert share_closed(run("worse", 3, 3), REFERENCES, EXPERTS).value == pytest.approx(-0.2)


def test_best_lam_is_of_task_arithmetic_with_the_largest_share():
    tried = [
        run("task_arithmetic", 1.75, 3, lam=0.25),
        run("task_arithmetic", 1.25, 3, lam=0.5),
        run("task_arithmetic", 1.5, 3, lam=1.0),
        run("ties", 1, 1, lam=2.0),
    ]
    for runs in (tried, tried[::-1]):
        assert best_lam([*runs, *REFERENCES], EXPERTS) == 0.5


DEFAULTS = {"task_arithmetic": 0.25, "slerp": None, "ties": 1.0}


@pytest.fixture
def separating_runs():
    """Runs of which every claim holds, by name and lam."""
    runs = [
        *REFERENCES,
        run("task_arithmetic", 1.5, 1.5, lam=0.5),
        run("task_arithmetic", 1.5, 2, lam=0.25),
        run("slerp", 1, 1),
        run("ties", 2, 2, lam=1.0),
    ]
    return {(r.record.name, r.record.settings.get("lam")): r for r in runs}


def failed_claims(separating_runs, *changed):
    """The claims that do not hold once these runs replace those of their name and lam."""
    runs = separating_runs | {(r.record.name, r.record.settings.get("lam")): r for r in changed}
    tested = claims(list(runs.values()), EXPERTS, lam=0.5, default_lams=DEFAULTS)
    return [claim.claim for claim in tested if not claim.holds]


SPREAD = "best method (slerp) - worst (ties), mean score"
GAP = "share of the gap closed by task arithmetic, lam 0.5 from validation"


def test_every_claim_holds_on_a_separating_benchmark(separating_runs):
    tested = claims(list(separating_runs.values()), EXPERTS, lam=0.5, default_lams=DEFAULTS)
    assert {c.claim: c.estimate.value for c in tested} == pytest.approx({
        "code - base on zoo_code_order": 0,
        "code - base on zoo_code_bits": 0.25,
        "mathematics - base on zoo_numbers_answer": 0,
        "mathematics - base on zoo_numbers_bits": 0.375,
        GAP: (2 * 2**-1.5 - 0.375) / 0.625,
        SPREAD: 0.125,  # 1/4 on one task of two of each domain
    })  # fmt: skip
    assert all(c.holds for c in tested)
    assert [bool(c.needed) for c in tested] == [False, True, False, True, True, True]


@pytest.mark.parametrize(
    ("bits", "noise", "holds"),
    [
        (2, 0, False),  # no better, no error
        # a gain of 2 ** -1.5 - 0.25 = 0.104 with an error of 2 ** -1.5 log 2 noise / 10
        (1.5, 0.5, True),  # 8.5 errors
        (1.5, 1, False),  # 4.2
        (2.5, 0, False),
    ],
)
def test_expert_must_gain_five_standard_errors_on_bits(separating_runs, bits, noise, holds):
    broken = failed_claims(separating_runs, run("code", bits, 4, noise=noise))
    assert ("code - base on zoo_code_bits" not in broken) is holds


def test_expert_may_be_worse_on_another_task(separating_runs):
    assert failed_claims(separating_runs, run("code", 1, 4, order=0.1)) == []


@pytest.mark.parametrize(("share", "broken"), [(0.39, [GAP]), (0.41, [])])
def test_gap_closed_must_be_at_least_40_percent(separating_runs, share, broken):
    code, numbers = (-math.log2(s + share * g) for s, g in ((0.25, 0.25), (0.125, 0.375)))
    assert (
        failed_claims(separating_runs, run("task_arithmetic", code, numbers, lam=0.5)) == broken
    )


@pytest.mark.parametrize(("n_hard", "broken"), [(50, []), (10, [GAP])])
def test_gap_closed_must_be_three_standard_errors_from_zero(separating_runs, n_hard, broken):
    # 1 bit in the mean, all of it on some documents: 7.2 errors of log 2 / 20 on 50 of 100,
    # 2.4 errors three times as large on 10
    code = [N / n_hard if i < n_hard else 0 for i in range(N)]
    merge = run("task_arithmetic", code, 3, lam=0.5)
    assert share_closed(merge, REFERENCES, EXPERTS).value == pytest.approx(0.4)
    assert failed_claims(separating_runs, merge) == broken


@pytest.mark.parametrize(("order", "broken"), [(0.3, []), (0.47, [SPREAD])])
def test_spread_of_methods_must_exceed_noise(separating_runs, order, broken):
    # 20 or 3 of 100 documents differ: 5 errors, or 1.8
    equal = run("task_arithmetic", 1, 1, lam=0.25)
    assert (
        failed_claims(separating_runs, equal, run("ties", 1, 1, lam=1.0, order=order)) == broken
    )


def test_claim_without_error_has_nan_sigmas():
    claim = Claim(claim="", estimate=Estimate(value=0.5, stderr=0.0), needed="", holds=True)
    assert math.isnan(claim.sigmas)


def test_missing_run_is_named():
    with pytest.raises(ValueError, match="no finished run of the unmerged model mathematics"):
        share_closed(BASE, REFERENCES[:2], EXPERTS)
    with pytest.raises(ValueError, match=r"task_arithmetic with lam 0\.5"):
        claims(REFERENCES, EXPERTS, lam=0.5, default_lams={"slerp": None})


def test_finished_runs_of_the_suite_are_read_with_samples(tmp_path):
    done, samples = record_and_samples("base", 2, 3)
    others = [
        replace(
            done,
            name="other",
            fingerprint="o",
            suite=replace(done.suite, name="tiny", fingerprint="t"),
        ),
        replace(done, name="merged", fingerprint="m", suite=None, scores={}, domains={}),
        replace(done, name="broken", fingerprint="b", status="failed", error="no memory"),
    ]
    for record in (done, *others):
        write_record(tmp_path, record, samples)
    (scored,) = read_runs(tmp_path, suite="zoo")
    assert scored.record == done
    assert scored.samples.keys() == samples.keys()


def test_invalid_record_is_refused(tmp_path):
    path = write_record(tmp_path, *record_and_samples("base", 2, 3))
    path.write_text("{")
    with pytest.raises(ValueError, match=r"\n.*record\.json "):
        read_runs(tmp_path, suite="zoo")
