from dataclasses import replace

import pytest

from eval.records import PoolRef, Record, SuiteRef
from eval.statistics.comparability import (
    best_setting,
    check_comparable,
    contract,
    tuned_on_test,
)
from tests.made_up_runs import accuracy, cost, model

DOMAINS = {"a": "code", "b": "code", "c": "french"}
COST = cost()


MODELS = PoolRef(pool="zoo", pivot=model("base"), sources=(model("code"),), references=())


def suite(split, **more):
    return SuiteRef(name="zoo", split=split, fingerprint=f"f-{split}", held_out=(), more=more)


def score(value, metric="acc", n=200):
    return accuracy(value, 0.01, n, metric)


def record(split, value=0.5, name="ties", seed=0, **settings):
    """A merge with the same score on every task."""
    return Record(
        fingerprint=f"{name}-{split}-{seed}-{settings}", kind="merge", status="done", name=name,
        settings=settings, models=MODELS, suite=suite(split), seed=seed, dtype=None,
        scores={task: score(value) for task in DOMAINS}, domains=DOMAINS, merge_cost=None,
        evaluation_cost=COST, merge={}, error=None, provenance={}, started_at="",
        seconds_total=1.0,
    )  # fmt: skip


def validation(value, **changes):
    return record("validation", value, **changes)


def test_the_best_validation_mean_chooses_the_setting():
    runs = [validation(0.4, lam=0.2), validation(0.6, lam=0.4), validation(0.5, lam=0.6)]
    assert best_setting(runs, method="ties") == {"lam": 0.4}
    assert best_setting(runs[::-1], method="ties") == {"lam": 0.4}


def test_the_validation_mean_counts_each_domain_once():
    # domains (0.9 + 0.9) / 2 and 0.2: 0.55; the other 0.6; over tasks it would be 0.67
    many = replace(
        validation(0.0, lam=1),
        scores={t: score(v) for t, v in zip("abc", [0.9, 0.9, 0.2], strict=True)},
    )
    assert best_setting([many, validation(0.6, lam=2)], method="ties") == {"lam": 2}


def test_the_seeds_of_a_setting_are_averaged():
    runs = [validation(0.9, density=0.1, seed=0), validation(0.1, density=0.1, seed=1)]
    assert best_setting([*runs, validation(0.6, density=0.2)], method="ties") == {
        "density": 0.2
    }


def test_equal_numbers_are_one_setting_whether_whole_or_not():
    runs = [validation(0.9, lam=1, seed=0), validation(0.1, lam=1.0, seed=1)]
    assert best_setting([*runs, validation(0.6, lam=2)], method="ties") == {"lam": 2}


@pytest.mark.parametrize(
    ("simpler", "other"),
    [
        ({"lam": 0.4}, {"lam": 0.6}),
        ({"lam": 0.6, "weights": None}, {"lam": 0.4, "weights": [1, 2]}),
        ({"density": 0.1, "lam": 9}, {"density": 0.2, "lam": 1}),
        ({"scope": "model"}, {"scope": "tensor"}),
        ({"lam": 2}, {"lam": "auto"}),
    ],
)
def test_of_equal_settings_the_simplest_and_lowest_is_taken(simpler, other):
    runs = [validation(0.5, **other), validation(0.5, **simpler)]
    assert best_setting(runs, method="ties") == simpler
    assert best_setting(runs[::-1], method="ties") == simpler


def test_rounding_does_not_choose_between_equal_settings():
    runs = [
        validation(0.3 + 1e-16, lam=2),
        validation(0.1 + 0.2, lam=3),
        validation(0.3, lam=1),
    ]
    assert best_setting(runs, method="ties") == {"lam": 1}


def test_other_methods_unmerged_models_and_failures_choose_nothing():
    failed = replace(validation(0.9, lam=8), status="failed", error="full disk")
    unmerged = replace(validation(0.9, lam=9), kind="reference")
    runs = [validation(0.9, name="dare", lam=7), failed, unmerged, validation(0.2, lam=1)]
    assert best_setting(runs, method="ties") == {"lam": 1}


def test_the_test_split_may_not_choose():
    with pytest.raises(
        ValueError, match=r"on the split 'validation', got runs \['ties ties-test"
    ):
        best_setting([validation(0.4, lam=1), record("test", 0.5, lam=2)], method="ties")


def test_a_method_without_a_finished_run_has_no_best_setting():
    with pytest.raises(
        ValueError, match="no finished run of sce: run its settings on validation"
    ):
        best_setting([validation(0.4)], method="sce")


def test_settings_of_different_models_are_not_compared():
    other = replace(validation(0.9, lam=2), models=replace(MODELS, pivot=model("llama")))
    with pytest.raises(ValueError, match="must merge one set of models, got several"):
        best_setting([validation(0.4, lam=1), other], method="ties")


def marked(*records):
    found = tuned_on_test(records)
    return [found[record.fingerprint] for record in records]


ONE, TWO = record("test", lam=1), record("test", lam=2)


def test_several_settings_on_the_test_split_are_all_marked():
    assert marked(ONE, TWO) == [True, True]


def test_the_setting_that_validation_chose_is_not_marked():
    tried = validation(0.9, lam=2), validation(0.1, lam=1)
    assert marked(ONE, TWO, *tried) == [True, False, False, False]
    assert marked(*tried, TWO, ONE) == [False, False, False, True]


def test_what_any_contract_of_validation_chose_is_not_marked():
    gpu = {"evaluation_cost": replace(COST, peak_gpu_bytes=5), "fingerprint": "gpu"}
    tried = validation(0.9, lam=2), replace(validation(0.9, lam=1), **gpu)
    assert marked(ONE, TWO, record("test", lam=3), *tried) == [False, False, True, False, False]


def test_a_validation_run_that_lacks_a_task_chooses_nothing():
    lacking = validation(0.9, lam=2)
    lacking = replace(lacking, scores={"a": lacking.scores["a"]})
    assert marked(ONE, TWO, lacking) == [True, True, False]
    assert marked(ONE, TWO, lacking, validation(0.1, lam=1)) == [False, True, False, False]


def test_one_setting_on_the_test_split_is_not_marked_whatever_its_seeds():
    assert marked(ONE, record("test", lam=1.0, seed=1)) == [False, False]


def test_settings_of_different_methods_are_no_choice():
    assert marked(ONE, record("test", name="dare", lam=2)) == [False, False]


def test_validation_of_other_models_or_another_method_clears_nothing():
    moved = replace(validation(0.9, lam=2), models=replace(MODELS, sources=(model("german"),)))
    assert marked(ONE, TWO, moved, validation(0.9, name="dare", lam=2))[:2] == [True, True]


def test_validation_on_other_tasks_clears_nothing():
    other = {"a": "code"}
    moved = replace(validation(0.9, lam=2), domains=other, scores={"a": score(0.9)})
    assert marked(ONE, TWO, moved)[:2] == [True, True]


def test_what_was_not_scored_is_neither_marked_nor_a_reason_to_mark():
    failed = replace(TWO, status="failed", error="full disk")
    unmerged = replace(record("test", lam=3), kind="reference")
    bare = replace(record("test", lam=4), suite=None, scores={}, domains={})
    assert marked(ONE, failed, unmerged, bare) == [False] * 4


def test_the_contract_lists_what_scores_depend_on():
    facts = contract(replace(ONE, domains={"a": "code"}, scores={"a": score(0.5)}))
    assert facts == {
        "suite.name": "zoo", "suite.split": "test", "suite.fingerprint": "f-test",
        "tasks.a.domain": "code", "tasks.a.metric": "acc", "tasks.a.documents": 200,
        "precision": "float32",
    }  # fmt: skip


def test_everything_the_record_says_of_its_suite_is_part_of_the_contract():
    detailed = replace(ONE, suite=suite("test", shots={"a": 5, "b": {"dev": 1}}))
    assert contract(detailed).items() >= {"suite.shots.a": 5, "suite.shots.b.dev": 1}.items()


def test_runs_of_one_contract_may_stand_in_one_table():
    roles = replace(TWO, suite=suite("test", held_out=["french"]))
    failed = replace(ONE, scores={}, status="failed", error="x", evaluation_cost=None)
    check_comparable([ONE, TWO, record("test", name="dare", seed=3), roles, failed])


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"suite": suite("validation")}, "suite.split is 'test' and 'validation'; suite.fing"),
        ({"suite": suite("test", fingerprint="g")}, "suite.fingerprint is 'f-test' and 'g'"),
        ({"scores": {"a": score(0.5, n=20)}}, "tasks.a.documents is 200 and 20"),
        ({"scores": {"a": score(0.5, "acc_norm")}}, "tasks.a.metric is 'acc' and 'acc_norm'"),
        ({"domains": {"a": "french"}}, "tasks.a.domain is 'code' and 'french'"),
        (
            {"evaluation_cost": replace(COST, peak_gpu_bytes=5), "dtype": "bfloat16"},
            "precision is 'float32' and 'bfloat16'",
        ),
        (
            {"evaluation_cost": replace(COST, peak_gpu_bytes=5)},
            "precision is 'float32' and \"the checkpoint's\"",
        ),
    ],
)
def test_rows_of_different_contracts_are_refused_with_the_difference(changes, difference):
    with pytest.raises(ValueError, match="are not comparable") as found:
        check_comparable([ONE, TWO, replace(ONE, fingerprint="other", **changes)])
    assert "ties ties-test-0- and ties other are" in str(found.value)
    assert difference in str(found.value)


def test_a_run_that_was_only_merged_has_no_contract():
    with pytest.raises(ValueError, match="ties ties-test-0- was not evaluated"):
        contract(replace(ONE, suite=None))
