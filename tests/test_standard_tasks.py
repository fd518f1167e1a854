"""Tasks of every kind over a tiny mirror, against lm-eval alone: equal to the last digit."""

import sys
import warnings
from pathlib import Path

import pytest
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM

from eval.harness import evaluate
from eval.load import load_model, load_tokenizer
from eval.suite import Suite, SuiteTask
from eval.task_manager import task_manager
from eval.tasks import expand
from tests.tiny_mirror import SUMS, write_sums

BASE = Path(__file__).parents[1] / "eval/zoo/models/base"
CHOOSE = (
    'output_type: multiple_choice\ndoc_to_text: "{{a}} + 1 ="\ndoc_to_choice: ["2", "3"]\n'
    "doc_to_target: target\n"
)
SAY = (
    'output_type: generate_until\ndoc_to_text: "{{a}} + 1 ="\ndoc_to_target: "{{a + 1}}"\n'
    "generation_kwargs: {until: ['zz'], max_gen_toks: 6, do_sample: false}\n"
)
MATCH = "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
ACC = "{metric: acc, aggregation: mean, higher_is_better: true}"
TASKS = {
    "choose": f"{CHOOSE}metric_list: [{ACC}]",
    "choose_more": f"{CHOOSE}metric_list: [{ACC}]",
    "prefer": f"{CHOOSE}metric_list: [{ACC}]",
    "prefer_more": f"{CHOOSE}metric_list: [{ACC}]",
    "correlate": f"{CHOOSE}metric_list: [{{metric: mcc}}]",
    "say": f"{SAY}{MATCH}filter_list:\n"
    "- {name: flexible, filter: [{function: regex, regex_pattern: '(\\d)'}, "
    "{function: take_first}]}\n"
    "- {name: strict, filter: [{function: take_first}]}",
    "last": 'output_type: loglikelihood\ndoc_to_text: "{{a}} + 1 ="\n'
    'doc_to_target: " {{a + 1}}"\nmetric_list: [{metric: perplexity}, {metric: acc}]',
    "roll": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\n'
    'doc_to_target: "{{a}} + 1 = {{a + 1}}"\n'
    "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]",
    "program": f"{SAY}unsafe_code: true\nmetric_list: [{{metric: !function code.passes, "
    "aggregation: mean, higher_is_better: true}]",
}
SPLITS = {"choose_more": "train", "prefer_more": "train"}
"""Tasks of three documents; the others have two."""
GROUPS = {
    "macro": "task: [choose, choose_more]\n"
    "aggregate_metric_list: [{metric: acc, weight_by_size: false}]",
    "sized": "task: [prefer, prefer_more]\n"
    "aggregate_metric_list: [{metric: acc, weight_by_size: true}]",
}
CODE = """
import evaluate
code_eval = evaluate.load("code_eval")
def passes(references, predictions):
    return code_eval.compute(references=references, predictions=predictions)["passed"]
"""
CODE_EVAL = """
import os
import datasets
import evaluate
class CodeEval(evaluate.Metric):
    def _info(self):
        features = {key: datasets.Value("string") for key in ("predictions", "references")}
        return evaluate.MetricInfo(
            description="", citation="", features=datasets.Features(features)
        )
    def _compute(self, predictions, references):
        assert os.environ["HF_ALLOW_CODE_EVAL"] == "1"
        return {"passed": len(predictions[0]) % 3 / 2}
"""
NAMES = ("macro", "sized", "correlate", "say", "last", "roll", "program")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A mirror with a data set and the metric code_eval, and tasks over it."""
    folder = tmp_path_factory.mktemp("standard")
    write_sums(folder / "mirror" / SUMS)
    metric = folder / "mirror/metrics/code_eval"
    metric.mkdir(parents=True)
    (metric / "code_eval.py").write_text(CODE_EVAL)
    (folder / "tasks").mkdir()
    (folder / "tasks/code.py").write_text(CODE)
    for name, text in TASKS.items():
        data = (
            f"dataset_path: {SUMS}\ndataset_name: easy\ntest_split: {SPLITS.get(name, 'test')}"
        )
        (folder / f"tasks/{name}.yaml").write_text(f"task: {name}\n{data}\n{text}\n")
    for name, text in GROUPS.items():
        (folder / f"tasks/{name}.yaml").write_text(f"group: {name}\n{text}\n")
    return folder


@pytest.fixture(scope="module")
def both(folder):
    """The evaluation of the suite, and lm-eval's own results with the errors of 100 draws."""
    suite = Suite(
        name="s", include_path=folder / "tasks", datasets_dir=folder / "mirror", batch_size=1,
        tasks=tuple(SuiteTask(task=name, domain=name) for name in NAMES),
        allow_code_execution=True,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of draws in which one class is missing
        patch.setattr("evaluate.config.HF_MODULES_CACHE", str(folder / "modules"))
        patch.setattr("evaluate.config.HF_METRICS_CACHE", str(folder / "metrics"))
        patch.setattr("sys.path", list(sys.path))
        ours = evaluate(BASE, expand(suite), device="cpu", seed=0, progress=False)
        for path in (folder / "tasks").glob("*.yaml"):  # lm-eval alone knows no mirror
            path.write_text(path.read_text().replace(SUMS, str(folder / "mirror" / SUMS)))
        patch.chdir(folder / "mirror/metrics")  # where evaluate looks first
        patch.setenv("HF_ALLOW_CODE_EVAL", "1")
        patch.setenv("DISABLE_MULTIPROC", "1")
        lm = HFLM(
            pretrained=load_model(BASE, device="cpu"), tokenizer=load_tokenizer(BASE),
            batch_size=1,
        )  # fmt: skip
        alone = simple_evaluate(
            model=lm, tasks=list(NAMES), task_manager=task_manager(folder / "tasks", NAMES),
            bootstrap_iters=100, confirm_run_unsafe_code=True,
        )["results"]  # fmt: skip
    return ours, alone


def test_every_kind_is_there(both):
    ours, _ = both
    assert {task.kind for task in ours.tasks} == {
        "multiple_choice", "generate", "loglikelihood", "rolling"
    }  # fmt: skip
    assert list(ours.scores) == [name for name in TASKS if name != "correlate"]


@pytest.mark.parametrize("task", [name for name in TASKS if name != "correlate"])
def test_scores_equal_those_of_lm_eval_alone(task, both):
    ours, alone = both
    resolved = next(t for t in ours.tasks if t.task == task)
    expected = alone[task][f"{resolved.metric},{resolved.filter}"]
    # log-likelihoods differ in their last bits between batches, fractions do not
    exact = resolved.kind in ("multiple_choice", "generate")
    assert ours.scores[task].raw == pytest.approx(expected, rel=0 if exact else 1e-5)


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("say", "exact_match,flexible"), ("last", "perplexity,none"), ("correlate", "mcc,none"),
        ("roll", "word_perplexity,none"),
    ],
)  # fmt: skip
def test_other_metrics_equal_those_of_lm_eval_alone(task, key, both):
    ours, alone = both
    equal_in_float32 = pytest.approx(alone[task][key], rel=1e-5, abs=0)
    assert ours.metrics[task][key].value == equal_in_float32


def test_the_bootstrapped_error_is_that_of_lm_eval_alone(both):
    ours, alone = both
    listed = ours.metrics["correlate"]["mcc,none"]
    assert listed.stderr == pytest.approx(alone["correlate"]["mcc_stderr,none"], rel=1e-12)


@pytest.mark.parametrize(("group", "shares"), [("macro", [0.5, 0.5]), ("sized", [0.4, 0.6])])
def test_groups_equal_those_of_lm_eval_alone(group, shares, both):
    ours, alone = both
    assert list(ours.groups[group].values()) == shares
    mean = sum(share * ours.scores[task].raw for task, share in ours.groups[group].items())
    assert mean == pytest.approx(alone[group]["acc,none"], rel=1e-15)
