"""Committed items: correct, held out, sufficient in number."""

import json
from collections import Counter

import pytest
import yaml

from scripts.zoo.build import build_items
from scripts.zoo.items import lines_of
from scripts.zoo.material import ZOO, read_material, read_recipe
from scripts.zoo.texts import split_of
from tests.zoo_answers import (
    TASKS,
    held_lines,
    is_one_swap,
    last_line,
    prompt_of,
    solve,
    wrong_choices,
)


@pytest.fixture(scope="module")
def committed():
    read = {}
    for path in (ZOO / "tasks").glob("*.jsonl"):
        read[path.stem] = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return read


@pytest.fixture(scope="module")
def suite(repository):
    return yaml.safe_load((repository / "conf" / "suite" / "zoo.yaml").read_text("utf-8"))


def settings_of(task):
    """The task's YAML with that it includes; `!function` is no plain YAML."""
    own = yaml.safe_load((ZOO / "tasks" / f"{task}.yaml").read_text("utf-8"))
    shared = (ZOO / "tasks" / own["include"]).read_text("utf-8")
    return yaml.safe_load(shared.replace("!function", "")) | own


def test_tasks_and_item_files_correspond(committed):
    files = [settings_of(task)["dataset_kwargs"]["file"] for task in TASKS]
    assert files == [f"{task}.jsonl" for task in sorted(committed)]


def test_suite_lists_every_task_once(suite):
    named = [settings_of(task)["task"] for task in TASKS]
    assert sorted(task["task"] for task in suite["tasks"]) == sorted(named)
    assert named == [f"zoo_{task}" for task in TASKS]


def test_there_are_twelve_tasks_of_all_three_kinds(suite):
    assert len(TASKS) == 12
    kinds = {
        "multiple_choice": "multiple_choice",
        "generate": "generate_until",
        "rolling": "loglikelihood_rolling",
    }
    types = {task["task"]: kinds[task["kind"]] for task in suite["tasks"]}
    assert types == {f"zoo_{task}": settings_of(task)["output_type"] for task in TASKS}
    assert set(types.values()) == set(kinds.values())


def test_held_out_domains_have_tasks_but_no_expert(suite):
    models = read_recipe()["models"].values()
    tuned = {domain for model in models for domain in model.get("domains", [])}
    held_out = [task for task in suite["tasks"] if task["domain"] in suite["held_out"]]
    assert len(held_out) >= 2
    assert not tuned & set(suite["held_out"])
    assert tuned == {task["domain"] for task in suite["tasks"]} - set(suite["held_out"])


@pytest.mark.parametrize("task", TASKS)
def test_each_split_has_200_distinct_items(committed, task):
    counts = Counter(item["split"] for item in committed[task])
    assert set(counts) == {"test", "validation"}
    assert min(counts.values()) >= 200
    contents = [
        json.dumps({k: v for k, v in i.items() if k != "split"}) for i in committed[task]
    ]
    assert len(contents) == len(set(contents))


@pytest.mark.parametrize("task", TASKS)
def test_items_are_from_their_split_only(committed, task):
    for item in committed[task]:
        for key in keys_of(item):
            assert split_of(key) == item["split"], f"{key} is {split_of(key)}"


def keys_of(item):
    """What decides an item's split: its document, or the prompts of its exercises."""
    if "document" in item:
        return [item["document"]]
    if "prompt" in item:
        return [last_line(item)]
    return [prompt_of(exercise) for exercise in item["text"].splitlines()]


@pytest.mark.parametrize("task", [task for task in TASKS if task.endswith("_bits")])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_passages_share_no_line(committed, task, split):
    texts = [item["text"] for item in committed[task] if item["split"] == split]
    lines = Counter(line for text in texts for line in set(text.splitlines()))
    assert [line for line, count in lines.items() if count > 1] == []


@pytest.mark.parametrize("task", ["numbers_answer", "format_answer"])
def test_few_shot_exercises_are_from_the_training_split(committed, task):
    for item in committed[task]:
        shots = item["prompt"].split("\n")[:-1]
        assert [split_of(prompt_of(shot)) for shot in shots] == ["train", "train"]


@pytest.mark.parametrize("task", [task for task in TASKS if task.endswith("_order")])
def test_choices_are_distinct_and_labels_balanced(committed, task):
    for split in ("test", "validation"):
        items = [item for item in committed[task] if item["split"] == split]
        assert all(len(set(item["choices"])) == len(item["choices"]) == 4 for item in items)
        labels = Counter(item["label"] for item in items)
        assert set(labels) == {0, 1, 2, 3}
        # A quarter each is expected, of 200 items 50 with a standard deviation of 6.
        assert all(0.15 < count / len(items) < 0.35 for count in labels.values())


@pytest.mark.parametrize("task", [task for task in TASKS if task.endswith("_order")])
def test_wrong_choices_swap_two_neighbouring_words(committed, task):
    for item in committed[task]:
        assert all(is_one_swap(choice, item) for choice in wrong_choices(item)), item
        assert all(choice == choice.rstrip() for choice in item["choices"]), item


@pytest.mark.parametrize("kind", ["numbers", "format"])
def test_exercise_answers_are_correct(committed, kind):
    for item in committed[f"{kind}_answer"]:
        assert item["answer"] == solve(last_line(item))
    for item in committed[f"{kind}_bits"]:
        exercises = item["text"].splitlines()
        assert len(exercises) == 2
        for exercise in exercises:
            assert exercise == f"{prompt_of(exercise)} {solve(prompt_of(exercise))}"


@pytest.mark.network
def test_items_are_reproduced_from_texts_and_held_out(committed, tmp_path):
    material = read_material(read_recipe())
    trained = set().union(*(lines_of(d, "train") for d in material.documents.values()))
    for task, items in committed.items():
        for item in items:
            assert not trained & set(held_lines(item)), f"{task}: {item}"
    build_items(material, tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (ZOO / "tasks" / path.name).read_bytes(), path.name
