"""Ready suites of standard tasks: every name in lm-eval, every metric and filter in its file."""

import pytest
from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

from eval.data_plan import plan_data
from eval.statistics.metrics import LEADERBOARD_V2
from eval.suite import suite_from_config
from eval.task_manager import leaf_changes, task_manager, task_yaml
from tests.configurations import CONF, composed

pytestmark = pytest.mark.xdist_group("ready suites")  # for one index of tasks
READY = ("blimp", "leaderboard_v2", "mergebench", "multilingual", "openllm", "smollm", "tiny")
NAMES_REPORTED = {"pass_at_k": "pass@1"}
"""Function that scores a document to the metric that it reports."""


def suite_of(name, repository):
    """Build a ready suite; all have the folder of groups, for one index of tasks."""
    entries = composed(f"suite={name}")["suite"] | {"include_path": "eval/groups"}
    return suite_from_config(entries, root=repository)


def tasks_of(suite):
    """Yield each task of a suite, as the suite has it, with the name of a leaf and its YAML."""
    manager = task_manager(suite.include_path, [task.task for task in suite.tasks])
    for task in suite.tasks:
        for leaf, changes in leaf_changes(manager, task.task).items():
            yield task, leaf, {**task_yaml(manager, leaf), **changes}


def metrics_of(config):
    """Names of the metrics that a task's YAML says it reports."""
    listed = [str(entry["metric"]) for entry in config.get("metric_list") or []]
    names = [name.rpartition(".")[2] if name.startswith("/") else name for name in listed]
    default = DEFAULT_METRIC_REGISTRY[config["output_type"]]
    return [NAMES_REPORTED.get(name, name) for name in names] or default


def test_suites_of_standard_tasks_are_all_tested():
    others = {"none", "tasks", "zoo", "zoo_validation"}
    others |= {"smol", "smol_validation", "smol_bits_validation", "smol_standard"}
    assert {path.stem for path in CONF.glob("suite/*.yaml")} == others | set(READY)


@pytest.mark.parametrize("name", READY)
def test_every_task_has_the_metric_and_the_filter_that_the_suite_names(name, repository):
    for task, leaf, config in tasks_of(suite_of(name, repository)):
        filters = [entry["name"] for entry in config.get("filter_list") or []] or ["none"]
        assert task.metric in metrics_of(config), leaf
        assert task.filter in filters, leaf


@pytest.mark.parametrize("name", READY)
def test_a_plan_names_every_data_set_that_is_missing(name, repository, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "prepared")
    monkeypatch.delenv("SEME_ONLINE", raising=False)
    table, lines = plan_data(suite_of(name, repository))
    commands = [line for line in lines if line.startswith("hf download")]
    assert len([line for line in commands if "--repo-type dataset" in line]) == table.row_count


@pytest.mark.parametrize(
    ("name", "n_domains", "n_tasks"),
    [
        ("blimp", 1, 67),
        ("leaderboard_v2", 6, 39),
        ("mergebench", 4, 16),
        ("multilingual", 5, 27),
        ("openllm", 6, 62),
        ("smollm", 9, 66),
        ("tiny", 6, 6),
    ],
)
def test_means_are_over_as_many_benchmarks_as_the_board_has(
    name, n_domains, n_tasks, repository
):
    tasks = list(tasks_of(suite_of(name, repository)))
    assert len({task.domain for task, _, _ in tasks}) == n_domains
    assert len({leaf for _, leaf, _ in tasks}) == len(tasks) == n_tasks


def test_the_second_leaderboard_is_measured_above_chance(repository):
    leaves = {leaf for _, leaf, _ in tasks_of(suite_of("leaderboard_v2", repository))}
    assert leaves == LEADERBOARD_V2.keys()


def test_shots_of_the_leaderboards_are_those_of_lm_evals_own_groups(repository):
    for name, group in (("openllm", "openllm"), ("leaderboard_v2", "leaderboard")):
        suite = suite_of(name, repository)
        manager = task_manager(suite.include_path, [group])
        own = {
            leaf: {**task_yaml(manager, leaf), **changes}.get("num_fewshot", 0)
            for leaf, changes in leaf_changes(manager, group).items()
        }
        for task, leaf, _ in tasks_of(suite):
            assert task.num_fewshot == own[leaf], leaf
