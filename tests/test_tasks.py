"""A suite's tasks: groups expanded and weighted as lm-eval does, data pinned, mistakes named."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM

from eval.harness import evaluate
from eval.load import load_model, load_tokenizer
from eval.suite import Suite, SuiteTask, suite_from_config
from eval.suite_options import frozen
from eval.task_manager import task_manager
from eval.tasks import build_tasks, expand
from tests.tiny_mirror import SUMS, write_sums, write_tasks

SUM_TASKS = {
    "easy": "dataset_path: org/sums\ndataset_name: easy\ntest_split: test",
    "hard": "dataset_path: org/sums\ndataset_name: easy\ntest_split: train",
}
GROUP = """
group: {name}
task: [easy, hard]
aggregate_metric_list: [{{metric: acc, aggregation: mean, weight_by_size: {by_size}}}]
"""
BASE = Path(__file__).parents[1] / "eval/zoo/models/base"
MIRROR = os.environ.get("SEME_DATASETS") or None


@pytest.fixture
def sums(tmp_path):
    """Build a suite over a tiny mirror with two tasks (2 and 3 documents) and groups of them."""
    write_sums(tmp_path / "mirror" / SUMS)
    groups = {
        "sized__yaml": GROUP.format(name="sized", by_size="true"),
        "macro__yaml": GROUP.format(name="macro", by_size="false"),
        "plain__yaml": "group: plain\ntask: [easy, hard]\n",
    }
    write_tasks(tmp_path / "tasks", SUM_TASKS, **groups)

    def build(*names):
        return Suite(
            name="s",
            include_path=tmp_path / "tasks",
            datasets_dir=tmp_path / "mirror",
            tasks=tuple(SuiteTask(task=name, domain=name) for name in names),
        )

    return build


def reported(suite, *specs, **options):
    """Results of lm-eval alone on the embedded base model."""
    lm = HFLM(
        pretrained=load_model(BASE, device="cpu"), tokenizer=load_tokenizer(BASE), batch_size=1
    )
    manager = task_manager(suite.include_path, [task.task for task in suite.tasks])
    return simple_evaluate(
        model=lm, tasks=list(specs), task_manager=manager, bootstrap_iters=0, **options
    )["results"]


def test_a_group_is_its_tasks_in_a_domain_of_its_own(sums):
    suite = expand(sums("sized"))
    assert [(t.task, t.group, t.domain) for t in suite.tasks] == [
        ("easy", "sized", "sized"),
        ("hard", "sized", "sized"),
    ]
    assert [name for name, _ in suite.data] == ["easy", "hard"]
    assert suite.described()["tasks"]["easy"]["group"] == "sized"


@pytest.mark.parametrize(
    ("name", "shares"), [("sized", [0.4, 0.6]), ("macro", [0.5, 0.5]), ("plain", [0.5, 0.5])]
)
def test_tasks_of_a_group_are_weighted_as_lm_eval_does(name, shares, sums, tmp_path):
    suite = expand(sums(name))
    evaluation = evaluate(BASE, suite, device="cpu", seed=0, progress=False)
    assert list(evaluation.groups[name].values()) == shares
    for path in (tmp_path / "tasks").glob("*.yaml"):  # lm-eval alone knows no mirror
        path.write_text(path.read_text().replace(SUMS, str(tmp_path / "mirror" / SUMS)))
    alone = reported(suite, name)
    for task, score in evaluation.scores.items():
        assert score.raw == alone[task]["acc,none"]
    mean = sum(evaluation.scores[t].raw * s for t, s in evaluation.groups[name].items())
    if name != "plain":
        assert mean == pytest.approx(alone[name]["acc,none"], rel=1e-15)


@pytest.mark.parametrize("name", ["sized", "macro", "plain"])
def test_a_group_in_no_mean_has_the_metric_that_lm_eval_gives(name, sums, tmp_path):
    for path in (tmp_path / "tasks").glob("*.yaml"):
        text = path.read_text().replace("aggregation: mean, ", "")
        text = text.replace(", higher_is_better: true", "")  # the metric's own
        path.write_text(text.replace("metric: acc", "metric: brier_score"))
    evaluation = evaluate(BASE, expand(sums(name)), device="cpu", seed=0, progress=False)
    for path in (tmp_path / "tasks").glob("*.yaml"):  # lm-eval alone knows no mirror
        path.write_text(path.read_text().replace(SUMS, str(tmp_path / "mirror" / SUMS)))
    alone = reported(sums(name), name)
    assert evaluation.scores == evaluation.groups == {}
    key = "brier_score,none"
    for task in ("easy", "hard"):
        # of probabilities, which batches change in their last bits
        assert evaluation.metrics[task][key].value == pytest.approx(alone[task][key], rel=1e-4)
    if name == "plain":
        assert evaluation.metrics.keys() == {"easy", "hard"}
        return
    metric = evaluation.metrics[name][key]
    assert metric.value == pytest.approx(alone[name][key], rel=1e-4)
    assert metric.n == 5
    assert metric.higher_is_better is False
    errors = [evaluation.metrics[task][key].stderr for task in ("easy", "hard")]
    if name == "macro":
        assert metric.stderr == pytest.approx(np.hypot(*errors) / 2)
    assert metric.stderr > 0


def test_other_data_are_another_suite_wherever_they_are(sums, tmp_path):
    suite = sums("sized")
    first = expand(suite).fingerprint()
    moved = tmp_path / "moved"
    write_sums(moved / f"datasets--{SUMS.replace('/', '--')}" / "snapshots" / "c0ffee")
    assert expand(replace(suite, datasets_dir=moved)).fingerprint() == first
    with (tmp_path / "mirror" / SUMS / "easy/test.jsonl").open("a") as file:
        file.write('{"a": 2, "target": 1}\n')
    assert expand(suite).fingerprint() != first


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["sizd"], r"task sizd is unknown .*did you mean sized"),
        (["sized", "easy"], r"tasks twice: \['easy'\]"),
        (["sized", "macro"], r"tasks twice: \['easy', 'hard'\]"),
    ],
)
def test_an_unknown_or_repeated_name_is_an_error(names, message, sums):
    with pytest.raises(ValueError, match=message):
        expand(sums(*names))


def test_a_group_of_several_metrics_is_refused(sums, tmp_path):
    path = tmp_path / "tasks/hard.yaml"
    path.write_text(path.read_text().replace("metric: acc", "metric: acc_norm"))
    with pytest.raises(
        ValueError, match=r"group plain.*acc \(raw\) of easy, acc_norm \(raw\) of hard"
    ):
        build_tasks(expand(sums("plain")))


def test_a_group_of_several_metrics_is_refused_before_its_data_are_looked_for(sums, tmp_path):
    suite = replace(sums("plain"), datasets_dir=tmp_path / "tasks")  # no data there
    path = tmp_path / "tasks/hard.yaml"
    path.write_text(path.read_text().replace("acc, aggregation: mean", "f1"))
    with pytest.raises(
        ValueError, match=r"group plain.*acc \(raw\) of easy, f1 \(reported\) of hard"
    ):
        expand(suite)
    with pytest.raises(ValueError, match="needs the data set"):
        expand(replace(suite, tasks=(replace(suite.tasks[0], metric="acc"),)))


def test_data_that_are_nowhere_are_an_error_with_the_command_that_fetches_them(sums, tmp_path):
    suite = replace(sums("easy"), datasets_dir=tmp_path / "tasks")
    with pytest.raises(ValueError, match=r"easy needs .*org/sums.*hf download org/sums"):
        expand(suite)


def test_a_suite_of_own_files_and_data_stays_as_it_is(repository):
    mapping = {"name": "zoo", "include_path": "eval/zoo/tasks", "tasks": ["zoo_code_order"]}
    suite = suite_from_config(mapping, root=repository)
    assert suite.has_own_data
    assert expand(suite) is suite


CODE = """
task: code
dataset_path: org/sums
dataset_name: easy
test_split: test
unsafe_code: true
output_type: generate_until
doc_to_text: "{{a}}"
doc_to_target: "{{target}}"
generation_kwargs: {do_sample: false, max_gen_toks: 4}
metric_list:
  - {metric: !function runs.allowed, aggregation: mean, higher_is_better: true}
"""
RUNS = """
import os
allowed_at_import = os.environ["HF_ALLOW_CODE_EVAL"]
def allowed(references, predictions):
    return float(os.environ["HF_ALLOW_CODE_EVAL"])
"""


@pytest.fixture
def code(sums, tmp_path):
    """Build a suite with one task that runs code, and asks if it may."""
    suite = sums("code")
    (tmp_path / "tasks/code.yaml").write_text(CODE)
    (tmp_path / "tasks/runs.py").write_text(RUNS)
    return suite


def test_a_task_that_runs_code_is_refused(code, monkeypatch):
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    for refusing in (expand, build_tasks):
        with pytest.raises(ValueError, match=r"task code runs .*allow_code_execution=true"):
            refusing(code)


def test_code_runs_where_the_suite_allows_it(code, monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    suite = expand(replace(code, allow_code_execution=True))
    evaluation = evaluate(BASE, suite, device="cpu", seed=0, progress=False)
    assert evaluation.scores["code"].raw == 1
    assert "HF_ALLOW_CODE_EVAL" not in os.environ


@pytest.mark.parametrize(
    ("gen_kwargs", "message"),
    [
        ({"max_gen_tok": 3}, r"\['max_gen_tok'\] .*did you mean max_gen_toks"),
        ({"temperature": 0.5}, r"temperature 0.5 .*code.*do_sample: true"),
    ],
)
def test_generation_that_has_no_effect_is_refused(gen_kwargs, message, code):
    suite = replace(code, allow_code_execution=True, gen_kwargs=frozen(gen_kwargs))
    with pytest.raises(ValueError, match=message):
        build_tasks(suite)


def test_entries_of_one_suite_do_not_leak_into_the_next(code):
    plain = replace(code, allow_code_execution=True)
    changed = replace(plain, gen_kwargs=frozen({"max_gen_toks": 2, "until": ["a"]}))
    assert build_tasks(changed)["code"].config.generation_kwargs["max_gen_toks"] == 2
    assert build_tasks(plain)["code"].config.generation_kwargs["max_gen_toks"] == 4


def test_shots_of_the_suite_are_for_tasks_that_name_none(sums):
    suite = sums("easy", "hard")
    named = replace(suite.tasks[0], num_fewshot=2)
    built = build_tasks(replace(suite, num_fewshot=1, tasks=(named, suite.tasks[1])))
    assert [task.config.num_fewshot for task in built.values()] == [2, 1]


REAL = (
    "blimp_adjunct_island", "blimp_wh_island", "mmlu_anatomy", "mmlu_abstract_algebra",
    "xcopa_it", "leaderboard_bbh_snarks", "leaderboard_bbh_boolean_expressions", "gsm8k",
    "mgsm_direct_es", "bbh_zeroshot_boolean_expressions",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(MIRROR is None, reason="SEME_DATASETS names no mirror")
def test_ten_real_tasks_score_as_in_lm_eval_alone():
    tasks = tuple(SuiteTask(task=name, domain=name) for name in REAL)
    suite = expand(Suite(name="s", tasks=tasks, limit=6, datasets_dir=Path(MIRROR)))
    evaluation = evaluate(BASE, suite, device="cpu", seed=0, progress=False)
    built = build_tasks(suite)
    for task in evaluation.tasks:
        options = {"gen_kwargs": {"max_gen_toks": 128}} if task.kind == "generate" else {}
        alone = reported(suite, built[task.task], limit=6, **options)
        key = f"{task.metric},{task.filter}"
        assert evaluation.scores[task.task].raw == alone[task.task][key], task.task


def test_an_unknown_aggregation_of_a_group_is_refused_before_a_merge(sums, tmp_path):
    group = GROUP.format(name="median", by_size="true").replace(": mean", ": median")
    (tmp_path / "tasks/median.yaml").write_text(group)
    with pytest.raises(ValueError, match=r"group median cannot be read: .*'median'"):
        build_tasks(expand(sums("median")))


def test_an_unknown_aggregation_of_a_task_is_refused_before_a_merge(sums, tmp_path):
    path = tmp_path / "tasks/easy.yaml"
    text = path.read_text()
    assert "aggregation: mean" in text
    path.write_text(text.replace("aggregation: mean", "aggregation: meen"))
    with pytest.raises(ValueError, match=r"easy: the aggregation of acc is none .* 'mean'"):
        build_tasks(expand(sums("easy")))
