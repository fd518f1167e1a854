"""Claims of the paper, judged from hand-written records."""

import pytest

from eval.report.claims import claims_of
from eval.report.verdicts import Verdict
from tests.report_records import MACHINE, Results, pool

YES, NO, UNKNOWN = Verdict.SUPPORTED, Verdict.NOT_SUPPORTED, Verdict.NOT_MEASURED
# 12 answers more of 24 documents: 2 of the 2 ** 12 exchanges are as extreme, p = 0.0005


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path)


def claims_by_key(results, records):
    """Claims by their last word or two."""
    judgements = claims_of(results.boards(records))
    keys = ("averaging", "task arithmetic", "TIES", "DARE", "runtime", "memory", "data",
            "architectures", "tau")  # fmt: skip
    return dict(zip(keys, judgements, strict=True))


def seme(results, right, tau=0.2, **changes):
    return results.add("seme", right, settings={"tau": tau}, **changes)


def test_each_baseline_has_its_own_claim(results):
    judgements = claims_by_key(results, [
        seme(results, 18), results.add("average", 6), results.add("task_arithmetic", 17),
        results.add("ties", 24, settings={"density": 0.2}),
    ])  # fmt: skip
    assert judgements["averaging"].verdict is YES  # 12 more: p = 2 / 2 ** 12
    assert judgements["task arithmetic"].verdict is NO  # 1 more: p = 1
    assert judgements["TIES"].verdict is NO  # 6 fewer
    assert judgements["DARE"].verdict is UNKNOWN
    assert judgements["DARE"].evidence is None


def test_finding_and_evidence_have_difference_and_p_values(results):
    judgements = claims_by_key(results, [seme(results, 18), results.add("average", 6)])[
        "averaging"
    ]
    assert "+50.00" in judgements.finding
    (row,) = judgements.evidence.rows
    assert row[:3] == ("zoo", "SeMe", "averaging")
    assert row[3].startswith("+50.00 ± ")
    assert row[5:] == ("0.00049", "0.00049", "significantly ahead")


def test_holm_correction_is_over_all_baselines(results):
    rivals = [results.add(name, 6) for name in ("average", "task_arithmetic", "ties", "dare")]
    judgements = claims_by_key(results, [seme(results, 18), *rivals])
    assert {judgements[key].evidence.rows[0][6] for key in ("averaging", "DARE")} == {"0.002"}


def test_without_validation_every_setting_must_be_ahead(results):
    records = [seme(results, 18, tau=0.1), seme(results, 6, tau=0.2), results.add("average", 6)]
    assert claims_by_key(results, records)["averaging"].verdict is NO


def test_only_the_setting_chosen_on_validation_is_compared(results):
    records = [
        seme(results, 18, tau=0.1), seme(results, 6, tau=0.2), results.add("average", 6),
        seme(results, 9, tau=0.1, split="validation"),
        seme(results, 8, tau=0.2, split="validation"),
    ]  # fmt: skip
    judgements = claims_by_key(results, records)
    assert judgements["averaging"].verdict is YES
    assert [row[1] for row in judgements["averaging"].evidence.rows] == ["SeMe tau=0.1"]
    without = claims_by_key(
        results, records[:3]
    )  # the finding says that data chose the settings
    assert judgements["data"].finding != without["data"].finding


def test_chosen_setting_without_a_test_run_is_not_measured(results):
    records = [seme(results, 18, tau=0.1), results.add("average", 6),
               seme(results, 9, tau=0.3, split="validation")]  # fmt: skip
    assert claims_by_key(results, records)["averaging"].verdict is UNKNOWN


def test_validation_runs_are_not_compared(results):
    records = [
        seme(results, 18, split="validation"),
        results.add("average", 6, split="validation"),
    ]
    assert claims_by_key(results, records)["averaging"].verdict is UNKNOWN


def test_validation_runs_of_other_models_are_ignored(results):
    other = pool("other", sources=("another",))
    records = [
        seme(results, 18, tau=0.1), results.add("average", 6),
        seme(results, 9, tau=0.3, split="validation", models=other),
    ]  # fmt: skip
    assert claims_by_key(results, records)["averaging"].verdict is YES


@pytest.mark.parametrize(
    ("tried", "words"),
    [
        ({}, "chosen on the validation split, which is data"),
        ({"models": pool("other", sources=("another",))}, "No run on a validation split"),
    ],
)
def test_a_validation_run_on_other_tasks_of_the_models_is_data_too(results, tried, words):
    records = [
        seme(results, {"d": 18, "e": 18}, tau=0.1),
        seme(results, {"d": 9}, split="validation", **tried),
    ]
    assert words in claims_by_key(results, records)["data"].finding


def test_every_seed_of_a_baseline_is_compared(results):
    records = [
        seme(results, 18), results.add("dare", 6, seed=0), results.add("dare", 17, seed=1)
    ]  # fmt: skip
    judgements = claims_by_key(results, records)["DARE"]
    assert judgements.verdict is NO
    assert [row[2] for row in judgements.evidence.rows] == ["DARE seed=1", "DARE seed=0"]


def test_costs_are_compared_by_medians(results):
    records = [seme(results, 6, tau=t, seconds=s) for t, s in ((0.1, 1), (0.2, 2), (0.3, 9))]
    rivals = ("average", "task_arithmetic", "ties", "dare")
    records += [results.add(name, 6, seconds=3.0, mib=5) for name in rivals]
    judgements = claims_by_key(results, records)
    assert judgements["runtime"].verdict is YES  # the median of 1, 2 and 9 is 2
    assert judgements["memory"].verdict is NO  # 10 MiB against 5
    assert judgements["runtime"].evidence.rows[0][2:] == ("SeMe", "2.00", "1.00", "9.00", "3")


def test_costs_from_another_machine_are_ignored(results):
    other = {**MACHINE, "cpu": "b"}
    records = [seme(results, 6, seconds=9), results.add("average", 6, provenance=other)]
    assert claims_by_key(results, records)["runtime"].verdict is UNKNOWN
    same_machine = results.add("ties", 6)
    assert claims_by_key(results, [*records, same_machine])["runtime"].verdict is NO


def test_data_claim_holds_unless_a_setting_names_data(results):
    assert claims_by_key(results, [seme(results, 6)])["data"].verdict is YES
    tuned = results.add("seme", 6, settings={"tau": 0.1, "calibration_texts": "a"})
    assert claims_by_key(results, [tuned])["data"].verdict is NO
    assert claims_by_key(results, [results.add("ties", 6)])["data"].verdict is UNKNOWN


@pytest.mark.parametrize(("right", "verdict"), [(18, YES), (7, NO)])
def test_architecture_claim_requires_beating_the_pivot(results, right, verdict):
    records = [
        seme(results, right),
        results.add_refused("ties"),
        results.add_unmerged("base", 6),
    ]
    assert claims_by_key(results, records)["architectures"].verdict is verdict


def test_architecture_claim_needs_a_refused_merge(results):
    records = [seme(results, 18), results.add("ties", 6), results.add_unmerged("base", 6)]
    assert claims_by_key(results, records)["architectures"].verdict is UNKNOWN


def test_architecture_claim_must_hold_in_every_pool(results):
    other = pool("small", sources=("tiny",))
    records = [seme(results, 18), results.add_refused("ties"), results.add_unmerged("base", 6)]
    records += [seme(results, 6, models=other), results.add_refused("ties", models=other)]
    assert claims_by_key(results, records)["architectures"].verdict is NO


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ({0.01: 6, 0.2: 7, 1: 6}, YES),
        ({0.01: 6, 0.2: 7, 1: 20}, NO),  # 13 more
        ({0.01: 7, 0.1: 20, 1: 7}, YES),  # 10 % is inside
        ({0.2: 7, 1: 6}, UNKNOWN),
        ({0.1: 7, 0.3: 20}, UNKNOWN),
        ({0.01: 20, 0.1: 7, 0.3: 19}, UNKNOWN),  # nothing above; below it only 1 more
    ],
)
def test_tau_range_is_compared_with_settings_outside_it(results, scores, verdict):
    records = [seme(results, right, tau=tau) for tau, right in scores.items()]
    assert claims_by_key(results, records)["tau"].verdict is verdict


def test_runs_without_samples_are_not_compared(results):
    records = [seme(results, 18), results.add("average", 6)]
    for path in results.root.glob("runs/*/samples.jsonl.gz"):
        path.unlink()
    assert claims_by_key(results, records)["averaging"].verdict is UNKNOWN
