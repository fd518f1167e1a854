"""The index of tasks: what a group holds, in lm-eval's order, without building it."""

import pytest

from eval.task_manager import is_built_in, leaf_changes, leaves, task_manager, task_yaml
from tests.tiny_mirror import write_sums, write_tasks

GROUPS = {
    "all__yaml": """
        group: all
        num_fewshot: 1
        task:
          - {task: c, num_fewshot: 2}
          - group: inner
            task: [b, a]
          - odd
          - {group: pair, num_fewshot: 0}
        """,
    "pair__yaml": "{group: pair, task: [a, d], num_fewshot: 3}",
    "within__yaml": "{group: within, task: [{task: unheard, dataset_path: x}]}",
}


@pytest.fixture
def folder(tmp_path):
    sums = write_sums(tmp_path / "sums")
    text = f"dataset_path: {sums}\ndataset_name: hard\ntest_split: test"
    tasks = {name: f"{text}\ntag: [odd]" if name in "ca" else text for name in "abcd"}
    return write_tasks(tmp_path / "tasks", tasks, **GROUPS)


def test_leaves_are_the_tasks_that_lm_eval_builds_in_its_order(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    manager = task_manager(folder, ["all"])
    for name in ("all", "pair", "odd", "a"):
        assert leaves(manager, name) == list(manager.load([name])["tasks"])
    assert leaves(manager, "all") == ["c", "b", "a", "d"]


def test_changes_of_an_outer_group_go_before_those_of_an_inner_one(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    manager = task_manager(folder, ["all"])
    changes = leaf_changes(manager, "all")
    built = manager.load(["all"])["tasks"]
    assert {name: entries["num_fewshot"] for name, entries in changes.items()} == {
        name: task.config.num_fewshot for name, task in built.items()
    }
    assert changes["d"] == {"num_fewshot": 0}
    assert leaf_changes(manager, "a") == {"a": {}}


def test_an_unknown_name_comes_with_the_nearest_names(folder):
    with pytest.raises(ValueError, match="got pairs; did you mean pair"):
        leaves(task_manager(folder, ["all"]), "pairs")


@pytest.mark.slow
def test_a_group_with_a_task_that_has_no_file_is_refused(folder):
    with pytest.raises(ValueError, match=r"group within .* unheard"):
        leaves(task_manager(folder, ["within"]), "within")


def test_the_yaml_is_of_tasks_only(folder):
    manager = task_manager(folder, ["a"])
    assert task_yaml(manager, "a")["dataset_name"] == "hard"
    assert not is_built_in(manager, "a")
    with pytest.raises(ValueError, match=r"got the group pair: \['a', 'd'\]"):
        task_yaml(manager, "pair")


def test_an_index_is_built_once_until_a_file_changes(folder):
    first = task_manager(folder, ["a"])
    assert task_manager(folder, ["pair"]) is first
    (folder / "e.yaml").write_text("task: e\ndataset_path: x\ntest_split: test")
    assert "e" in task_manager(folder, ["e"]).task_index


@pytest.mark.slow
def test_tasks_of_lm_eval_are_indexed_when_they_are_asked_for(folder):
    manager = task_manager(folder, ["a", "openllm"])
    assert leaf_changes(manager, "openllm")["arc_challenge"]["num_fewshot"] == 25
    assert len(leaves(manager, "blimp")) == 67
    assert leaves(manager, "mmlu")[0] == "mmlu_abstract_algebra"
    assert is_built_in(manager, "gsm8k")
    assert task_manager(folder, ["gsm8k"]) is manager


@pytest.mark.slow
def test_a_group_of_ones_own_may_be_of_tasks_of_lm_eval(tmp_path):
    (tmp_path / "both.yaml").write_text("group: both\ntask: [gsm8k, xcopa]\n")
    assert len(leaves(task_manager(tmp_path, ["both"]), "both")) == 12
