from dataclasses import replace

import pytest

from eval.statistics.comparability import (
    best_setting,
    check_comparable,
    chooses_for,
    contract,
    precision,
    tuned_on_test,
)
from tests.made_up_runs import COST, DOMAINS, make_record, model_ref, pool_ref, score, suite_ref

MODELS = pool_ref(sources=("code",))


def suite(split, **more):
    return suite_ref(split, fingerprint=f"f-{split}", more=more)


def record(split, value=0.5, name="ties", seed=0, **settings):
    """A merge with the same score on every task."""
    return make_record(
        name, dict.fromkeys(DOMAINS, value), fingerprint=f"{name}-{split}-{seed}-{settings}",
        settings=settings, models=MODELS, suite=suite(split), seed=seed, domains=DOMAINS,
    )  # fmt: skip


def validation(value, **changes):
    return record("validation", value, **changes)


def test_setting_with_the_best_validation_mean_is_chosen():
    runs = [validation(0.4, lam=0.2), validation(0.6, lam=0.4), validation(0.5, lam=0.6)]
    assert best_setting(runs, method="ties") == {"lam": 0.4}
    assert best_setting(runs[::-1], method="ties") == {"lam": 0.4}


def test_validation_mean_weighs_domains_equally():
    # domains (0.9 + 0.9) / 2 and 0.2: 0.55; the other 0.6; over tasks it would be 0.67
    many = replace(
        validation(0.0, lam=1),
        scores={t: score(v) for t, v in zip("abc", [0.9, 0.9, 0.2], strict=True)},
    )
    assert best_setting([many, validation(0.6, lam=2)], method="ties") == {"lam": 2}


def test_seeds_of_a_setting_are_averaged():
    runs = [validation(0.9, density=0.1, seed=0), validation(0.1, density=0.1, seed=1)]
    assert best_setting([*runs, validation(0.6, density=0.2)], method="ties") == {
        "density": 0.2
    }


def test_integer_and_float_values_are_one_setting():
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
def test_equal_scores_are_broken_by_the_simplest_lowest_setting(simpler, other):
    runs = [validation(0.5, **other), validation(0.5, **simpler)]
    assert best_setting(runs, method="ties") == simpler
    assert best_setting(runs[::-1], method="ties") == simpler


def test_scores_equal_up_to_rounding_are_ties():
    runs = [
        validation(0.3 + 1e-16, lam=2),
        validation(0.1 + 0.2, lam=3),
        validation(0.3, lam=1),
    ]
    assert best_setting(runs, method="ties") == {"lam": 1}


def test_other_methods_unmerged_models_and_failures_are_ignored():
    failed = replace(validation(0.9, lam=8), status="failed", error="full disk")
    unmerged = replace(validation(0.9, lam=9), kind="reference")
    runs = [validation(0.9, name="dare", lam=7), failed, unmerged, validation(0.2, lam=1)]
    assert best_setting(runs, method="ties") == {"lam": 1}


def test_test_split_runs_are_refused():
    with pytest.raises(ValueError, match=r"'validation'.*\['ties ties-test"):
        best_setting([validation(0.4, lam=1), record("test", 0.5, lam=2)], method="ties")


def test_method_without_a_finished_run_is_refused():
    with pytest.raises(ValueError, match="no finished run of sce"):
        best_setting([validation(0.4)], method="sce")


def test_runs_of_different_models_are_refused():
    other = replace(validation(0.9, lam=2), models=replace(MODELS, pivot=model_ref("llama")))
    with pytest.raises(ValueError, match="must merge one set of models, got several"):
        best_setting([validation(0.4, lam=1), other], method="ties")


def marked(*records):
    marks = tuned_on_test(records)
    return [marks[record.fingerprint] for record in records]


ON_GPU = replace(COST, peak_gpu_bytes=5)
ONE, TWO = record("test", lam=1), record("test", lam=2)


def test_several_test_settings_are_marked():
    assert marked(ONE, TWO) == [True, True]


def test_setting_chosen_on_validation_is_not_marked():
    tried = validation(0.9, lam=2), validation(0.1, lam=1)
    assert marked(ONE, TWO, *tried) == [True, False, False, False]
    assert marked(*tried, TWO, ONE) == [False, False, False, True]


def test_setting_chosen_under_any_validation_contract_is_not_marked():
    gpu = {"evaluation_cost": ON_GPU, "fingerprint": "gpu"}
    tried = validation(0.9, lam=2), replace(validation(0.9, lam=1), **gpu)
    assert marked(ONE, TWO, record("test", lam=3), *tried) == [False, False, True, False, False]


def test_incomplete_validation_runs_are_ignored():
    lacking = validation(0.9, lam=2)
    lacking = replace(lacking, scores={"a": lacking.scores["a"]})
    assert marked(ONE, TWO, lacking) == [True, True, False]
    assert marked(ONE, TWO, lacking, validation(0.1, lam=1)) == [False, True, False, False]


def test_several_seeds_of_one_test_setting_are_not_marked():
    assert marked(ONE, record("test", lam=1.0, seed=1)) == [False, False]


def test_one_setting_per_method_is_not_marked():
    assert marked(ONE, record("test", name="dare", lam=2)) == [False, False]


def test_validation_of_other_models_or_methods_does_not_clear_the_mark():
    moved = replace(
        validation(0.9, lam=2), models=replace(MODELS, sources=(model_ref("german"),))
    )
    assert marked(ONE, TWO, moved, validation(0.9, name="dare", lam=2))[:2] == [True, True]


def test_validation_on_other_tasks_does_not_clear_the_mark():
    other = {"a": "code"}
    moved = replace(validation(0.9, lam=2), domains=other, scores={"a": score(0.9)})
    assert marked(ONE, TWO, moved)[:2] == [True, True]


def test_unscored_runs_neither_have_nor_cause_a_mark():
    failed = replace(TWO, status="failed", error="full disk")
    unmerged = replace(record("test", lam=3), kind="reference")
    bare = replace(record("test", lam=4), suite=None, scores={}, domains={})
    assert marked(ONE, failed, unmerged, bare) == [False] * 4


def test_contract_has_suite_tasks_and_precision():
    facts = contract(replace(ONE, domains={"a": "code"}, scores={"a": score(0.5)}))
    assert facts == {
        "suite.name": "zoo", "suite.split": "test", "suite.fingerprint": "f-test",
        "suite.evaluator": "hf", "tasks.a.domain": "code", "tasks.a.metric": "acc",
        "tasks.a.documents": 200,
        "precision": "float32",
    }  # fmt: skip


def test_precision_is_the_suites_where_it_states_one():
    stated = replace(ONE, suite=suite("test", dtype="bfloat16"))
    assert precision(stated) == precision(replace(stated, evaluation_cost=ON_GPU)) == "bfloat16"
    assert precision(replace(ONE, evaluation_cost=ON_GPU, dtype="float16")) == "float16"
    assert precision(replace(stated, evaluation_cost=None)) is None


def test_extra_suite_facts_are_part_of_the_contract():
    detailed = replace(ONE, suite=suite("test", shots={"a": 5, "b": {"dev": 1}}))
    assert contract(detailed).items() >= {"suite.shots.a": 5, "suite.shots.b.dev": 1}.items()


def test_runs_of_one_contract_are_comparable():
    roles = replace(TWO, suite=suite("test", held_out=["french"]))
    failed = replace(ONE, scores={}, status="failed", error="x", evaluation_cost=None)
    check_comparable([ONE, TWO, record("test", name="dare", seed=3), roles, failed])


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"suite": suite("validation")}, "suite.split is 'test' and 'validation'; suite.fing"),
        ({"suite": suite("test", evaluator="vllm")}, "suite.evaluator is 'hf' and 'vllm'"),
        ({"suite": suite("test", fingerprint="g")}, "suite.fingerprint is 'f-test' and 'g'"),
        ({"scores": {"a": score(0.5, n=20)}}, "tasks.a.documents is 200 and 20"),
        ({"scores": {"a": score(0.5, metric="acc_norm")}}, "metric is 'acc' and 'acc_norm'"),
        ({"domains": {"a": "french"}}, "tasks.a.domain is 'code' and 'french'"),
        ({"evaluation_cost": ON_GPU, "dtype": "bfloat16"}, "'float32' and 'bfloat16'"),
        ({"evaluation_cost": ON_GPU}, "'float32' and \"the checkpoint's\""),
    ],
)
def test_different_contracts_are_refused_with_the_difference(changes, difference):
    with pytest.raises(ValueError, match="are not comparable") as caught:
        check_comparable([ONE, TWO, replace(ONE, fingerprint="other", **changes)])
    assert "ties ties-test-0- and ties other are" in str(caught.value)
    assert difference in str(caught.value)


def test_unevaluated_run_has_no_contract():
    with pytest.raises(ValueError, match="ties ties-test-0- was not evaluated"):
        contract(replace(ONE, suite=None))


@pytest.mark.parametrize(
    ("validation", "chooses"),
    [
        ({"a": "code", "b": "french", "c": "polish"}, True),
        ({"a": "code", "b": "french"}, True),
        ({"a": "code", "c": "polish"}, False),
        ({"a": "code", "b": "german"}, False),
        ({"a": "code", "b": "french", "d": "english"}, False),
    ],
)
def test_validation_may_leave_out_tasks_of_held_out_domains_only(validation, chooses):
    test = {"a": "code", "b": "french", "c": "polish"}
    assert chooses_for(validation, test, ("polish", "english")) == chooses
