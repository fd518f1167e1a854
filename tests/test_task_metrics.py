"""Metrics of every kind against lm-eval alone, on tiny tasks and the embedded base model."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM

from eval.harness import evaluate
from eval.load import load_model, load_tokenizer
from eval.suite import Suite, SuiteTask
from eval.task_manager import task_manager
from eval.task_metrics import other_metrics
from eval.tasks import build_tasks

BASE = Path(__file__).parents[1] / "eval/zoo/models/base"
CODE = """
from datasets import Dataset, DatasetDict
ROWS = [  # prompt, answer, letters to use
    ("the cat sat on", " the second.", "the"),
    ("le chat est noir", "a", "ab"),
    ("is a", "symbolic", "sylk"),
    ("3 + 4 = 7", "2", "12345"),
    ("import os", "os", "xy"),
]
def load(**_):
    rows = [
        dict(text=text, answer=answer, letters=letters, gold=i % 2, choices=[text, answer])
        for i, (text, answer, letters) in enumerate(ROWS)
    ]
    return DatasetDict(test=Dataset.from_list(rows))
def process_results(doc, results):
    follows = [letter in results[0] for letter in doc["letters"]]
    return {"all": all(follows), "instructions": follows, "length": len(results[0])}
def agg_inst_level_acc(items):
    flat = [item for items_of in items for item in items_of]
    return sum(flat) / len(flat)
def pass_at_k(references, predictions):
    letters = set(references[0])
    return {f"pass@{k}": float(len(letters & set(predictions[0])) > k) for k in (1, 3)}
def order(items):
    return sum(i * i * x for i, x in enumerate(items))
"""
COMMON = "task: {name}\ncustom_dataset: !function code.load\ntest_split: test\n"
CHOOSE = "output_type: multiple_choice\ndoc_to_text: text\ndoc_to_choice: choices\ndoc_to_target: gold\n"
SAY = (
    "output_type: generate_until\ndoc_to_text: text\ndoc_to_target: answer\n"
    'generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}\n'
)
TASKS = {
    "last": "output_type: loglikelihood\ndoc_to_text: text\ndoc_to_target: letters\n"
    "metric_list: [{metric: perplexity}, {metric: acc}]",
    "roll": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: text\n"
    "metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, "
    "{metric: bits_per_byte}]",
    "pair": f"{CHOOSE}metric_list: [{{metric: f1}}, {{metric: mcc}}, {{metric: brier_score}}]",
    "pick": f"{CHOOSE}metric_list: [{{metric: acc}}, {{metric: acc_norm}}, {{metric: mcc}}]",
    "obey": f"{SAY}process_results: !function code.process_results\nmetric_list:\n"
    "- {metric: all, aggregation: mean, higher_is_better: true}\n"
    "- {metric: instructions, aggregation: !function code.agg_inst_level_acc, "
    "higher_is_better: true}\n"
    "- {metric: length, aggregation: mean, higher_is_better: false}",
    "match": f"{SAY}metric_list: [{{metric: exact_match, aggregation: mean, "
    "higher_is_better: true}]\nfilter_list:\n"
    "- {name: flexible, filter: [{function: regex, regex_pattern: '(\\w+)'}, "
    "{function: take_first}]}\n"
    "- {name: strict, filter: [{function: take_first}]}",
    "passes": f"{SAY}metric_list: [{{metric: !function code.pass_at_k, aggregation: mean, "
    "higher_is_better: true}]",
    "translate": f"{SAY}metric_list: [{{metric: bleu}}, {{metric: chrf}}, {{metric: ter}}]",
    "ordered": f"{CHOOSE}metric_list: [{{metric: acc, aggregation: !function code.order, "
    "higher_is_better: true}]",
}
IN_MEAN = {
    ("last", "acc"): "raw",
    ("last", "perplexity"): "inverse_perplexity",
    ("roll", "bits_per_byte"): "byte_likelihood",
    ("roll", "word_perplexity"): "inverse_perplexity",
    ("roll", "byte_perplexity"): "inverse_perplexity",
    ("pick", "acc_norm"): "raw",
    ("obey", "all"): "raw",
    ("obey", "instructions"): "parts",
    ("match", "exact_match"): "raw",
    ("passes", "pass@1"): "raw",
}
REPORTED = [
    ("pair", "f1"), ("pair", "mcc"), ("pair", "brier_score"), ("obey", "length"),
    ("translate", "bleu"), ("translate", "chrf"), ("translate", "ter"), ("ordered", "acc"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "code.py").write_text(CODE)
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(COMMON.format(name=name) + text)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """Evaluate tasks of the folder."""

    def run(*tasks):
        suite = Suite(name="s", include_path=folder, tasks=tasks)
        return evaluate(BASE, suite, device="cpu", seed=0, progress=False)

    return run


@pytest.fixture(scope="module")
def alone(folder):
    """Results of lm-eval alone, with the errors of 100 draws."""
    lm = HFLM(
        pretrained=load_model(BASE, device="cpu"), tokenizer=load_tokenizer(BASE), batch_size=1
    )
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of draws in which one class is missing
        patch.setenv("DISABLE_MULTIPROC", "1")
        return simple_evaluate(
            model=lm, tasks=list(TASKS), task_manager=task_manager(folder, list(TASKS)),
            bootstrap_iters=100,
        )["results"]  # fmt: skip


def task(name, metric=None, **entries):
    return SuiteTask(task=name, metric=metric, domain=name, **entries)


@pytest.fixture(scope="module")
def defaults(run):
    """Evaluation of all tasks by their own metrics."""
    return run(*map(task, TASKS))


def test_default_metrics_and_scores(defaults):
    assert {t.task: (t.metric, t.score) for t in defaults.tasks} == {
        "last": ("acc", "raw"),
        "roll": ("bits_per_byte", "byte_likelihood"),
        "pair": ("f1", "reported"),
        "pick": ("acc_norm", "raw"),
        "obey": ("all", "raw"),
        "match": ("exact_match", "raw"),
        "passes": ("pass@1", "raw"),
        "translate": ("bleu", "reported"),
        "ordered": ("acc", "reported"),
    }
    assert (
        list(defaults.scores)
        == [t.task for t in defaults.tasks if t.score != "reported"]
        == list(defaults.samples)
    )


@pytest.fixture(scope="module")
def others(run):
    """Evaluations of tasks by metrics that are not their first."""
    chosen = [task("last", "perplexity"), task("obey", "instructions")]
    return run(*chosen, task("roll", "word_perplexity")), run(task("roll", "byte_perplexity"))


@pytest.mark.parametrize(("name", "metric"), IN_MEAN)
def test_scores_in_the_mean_are_those_of_lm_eval_alone(name, metric, defaults, others, alone):
    score, resolved = next(
        (evaluation.scores[name], t)
        for evaluation in (defaults, *others)
        for t in evaluation.tasks
        if (t.task, t.metric) == (name, metric)
    )
    assert resolved.score == IN_MEAN[name, metric]
    reported = alone[name][f"{metric},{resolved.filter}"]
    assert score.raw == pytest.approx(reported, rel=1e-5)
    in_mean = {"byte_likelihood": lambda x: 2**-x, "inverse_perplexity": lambda x: 1 / x}
    expected = in_mean.get(resolved.score, lambda x: x)(reported)
    assert score.value == pytest.approx(expected, rel=1e-6)
    assert score.n == 5
    assert 0 < score.stderr < 1 or metric == "acc"  # no answer is right


@pytest.mark.parametrize(("name", "metric"), REPORTED)
def test_metrics_outside_the_mean_are_those_of_lm_eval_alone(name, metric, defaults, alone):
    listed = defaults.metrics[name][f"{metric},none"]
    assert listed.value == pytest.approx(alone[name][f"{metric},none"], rel=1e-5)
    error = alone[name][f"{metric}_stderr,none"]
    if error != "N/A":
        assert listed.stderr == pytest.approx(error, rel=1e-5)
    else:  # of the Brier score, and of own functions
        assert (listed.stderr is None) == (name == "ordered")
    assert listed.n == 5
    assert listed.higher_is_better == (metric not in ("brier_score", "length", "ter"))


def test_a_task_of_the_mean_can_be_listed_beside_it(run, defaults):
    evaluation = run(task("pick", score="reported"), task("match"))
    assert list(evaluation.scores) == list(evaluation.samples) == ["match"]
    assert evaluation.metrics["pick"]["acc_norm,none"].value == defaults.scores["pick"].raw


def test_other_metrics_and_filters_of_a_task_in_the_mean_are_kept(defaults, alone):
    assert {task: list(metrics) for task, metrics in defaults.metrics.items()} == {
        "last": ["perplexity,none"],
        "roll": ["word_perplexity,none", "byte_perplexity,none"],
        "pair": ["f1,none", "mcc,none", "brier_score,none"],
        "pick": ["acc,none", "mcc,none"],
        "obey": ["instructions,none", "length,none"],
        "match": ["exact_match,flexible"],
        "passes": ["pass@3,none"],
        "translate": ["bleu,none", "chrf,none", "ter,none"],
        "ordered": ["acc,none"],
    }
    strict, flexible = (
        defaults.scores["match"],
        defaults.metrics["match"]["exact_match,flexible"],
    )
    assert strict.raw == alone["match"]["exact_match,strict"]
    assert flexible.value == alone["match"]["exact_match,flexible"]


def test_parts_are_averaged_over_all_parts_with_the_ratio_s_error(others):
    samples = others[0].samples["obey"]
    assert [sample.n_units for sample in samples] == [3, 2, 4, 5, 2]
    assert [sample.value for sample in samples] == [1, 0.5, 1, 0.2, 0]


@pytest.mark.parametrize(
    ("name", "metric", "score", "message"),
    [
        ("last", "perplexity", "raw", "last: the score of perplexity .*inverse_perplexity or"),
        ("pick", "mcc", "parts", "pick: the score of mcc .* must be reported, got parts"),
        ("pick", "acc", "parts", "pick: the score of acc .* raw or reported, got parts"),
        ("obey", "length", "raw", "obey: the score of length .*lower.* reported, got raw"),
        ("ordered", "acc", "raw", "ordered: acc must be aggregated .* lm-eval reports"),
    ],
)
def test_a_score_that_does_not_go_with_the_metric_is_refused(name, metric, score, message, run):
    with pytest.raises(ValueError, match=message):
        run(task(name, metric, score=score))


def test_a_wrong_score_is_refused_before_a_model_is_loaded(folder):
    suite = Suite(name="s", include_path=folder, tasks=(task("last", "acc", score="parts"),))
    with pytest.raises(ValueError, match="last: the score of acc"):
        build_tasks(suite)


def test_a_mean_of_no_fractions_is_refused_with_the_remedy(folder, tmp_path):
    (tmp_path / "code.py").write_text(CODE)
    text = (folder / "obey.yaml").read_text().replace("better: false", "better: true")
    (tmp_path / "obey.yaml").write_text(text)
    suite = Suite(name="s", include_path=tmp_path, tasks=(task("obey", "length"),))
    with pytest.raises(ValueError, match=r"obey: length must be a fraction .*score: reported"):
        evaluate(BASE, suite, device="cpu", seed=0, progress=False)


def test_a_metric_that_is_not_finite_has_no_value():
    logged = [{"metrics": ["m"], "filter": "none", "m": x} for x in (1.0, 2.0)]
    metrics = other_metrics(
        replace(task("t", "m"), score="reported"), logged, {"m,none": float("nan")}, {}, {}
    )
    assert metrics["m,none"].value is None
