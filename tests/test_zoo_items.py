"""The rules items are drawn by, and the items of the embedded benchmark as committed."""

import json
import re
from collections import Counter
from itertools import permutations

import pytest
import yaml

from eval.zoo.build import build_items
from eval.zoo.exercises import Exercise
from eval.zoo.items import (
    exercise_items,
    exercise_passages,
    lines_of,
    passage_items,
    word_order_items,
)
from eval.zoo.material import ZOO, Material, read_material, read_recipe
from eval.zoo.texts import Document, split_of

TASKS = sorted(path.stem for path in (ZOO / "tasks").glob("*.yaml"))
OPENING = ["a first line", "a second line", "a third line"]  # too short to be an answer
ANSWERS = {  # of the test split: a page to the one line of it that can be an answer
    "printf.3": "print what you are told to",
    "chmod.1": "change the mode of a file",
    "man.1": "show a page of the manual",
    "alloca.3": "take memory off the stack",
}


def document(key, *lines):
    return Document(domain="english", key=key, text="\n".join(lines) + "\n")


@pytest.fixture
def limits(monkeypatch):
    """Limits of the tests' own: the benchmark's are tuned to its texts."""
    monkeypatch.setattr("eval.zoo.items._LONGEST_CONTEXT", 80)
    monkeypatch.setattr("eval.zoo.items._LINE_BYTES", range(20, 37))
    monkeypatch.setattr("eval.zoo.items._SHORTEST_PASSAGE", 60)
    monkeypatch.setattr("eval.zoo.items._LONGEST_PASSAGE", 140)


@pytest.fixture
def documents(limits):  # noqa: ARG001
    return [document(key, *OPENING, answer) for key, answer in ANSWERS.items()]


@pytest.mark.usefixtures("limits")
def test_three_choices_are_the_right_line_with_two_neighbouring_words_swapped():
    page = document("man.1", *OPENING, "manual pages describe commands")
    [item] = word_order_items([page], "test", 1, 0, set())
    assert item["document"] == "man.1"
    assert item["context"] == "a first line\na second line\na third line\n"
    assert item["choices"][item["label"]] == "manual pages describe commands"
    assert sorted(item["choices"]) == [
        "manual describe pages commands",
        "manual pages commands describe",
        "manual pages describe commands",
        "pages manual describe commands",
    ]


def test_every_page_is_asked_for_its_own_line(documents):
    items = word_order_items(documents, "test", 4, 0, set())
    assert {i["document"]: i["choices"][i["label"]] for i in items} == ANSWERS
    assert all(len(set(i["choices"])) == 4 for i in items)
    for item in items:
        assert all(is_one_swap(c, item) for c in wrong_choices(item))


def wrong_choices(item):
    return [c for place, c in enumerate(item["choices"]) if place != item["label"]]


def is_one_swap(choice, item):
    """Whether a choice is the right one but for two neighbouring words, which are swapped."""
    answer = item["choices"][item["label"]]
    right, wrong = answer.split(), choice.split()
    first, *rest = [i for i in range(len(right)) if right[i] != wrong[i]]
    swapped = rest == [first + 1] and right[first : first + 2] == wrong[first : first + 2][::-1]
    return swapped and indent(choice) == indent(answer)


def indent(line):
    return line[: len(line) - len(line.lstrip())]


@pytest.mark.usefixtures("limits")
def test_every_choice_keeps_the_indentation_of_the_right_line():
    page = document("man.1", *OPENING, "\t    return manual pages here")
    [item] = word_order_items([page], "test", 1, 0, set())
    assert len(set(item["choices"])) == 4
    assert {indent(choice) for choice in item["choices"]} == {"\t    "}


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("three different wordsssss", False),  # two pairs of neighbours
        ("manual pages pages describe", False),  # three pairs, of which one is of equal words
        ("manual pages pages describe it", True),
        ("manual  pages describe commands", False),  # two spaces: the choices would have one
    ],
)
def test_a_line_is_asked_for_only_if_three_swaps_change_it(line, asked):
    page = document("man.1", *OPENING, line)
    if asked:
        [item] = word_order_items([page], "test", 1, 0, set())
        assert len(set(item["choices"])) == 4
    else:
        with pytest.raises(ValueError, match="expected 1 test items from english, got 0"):
            word_order_items([page], "test", 1, 0, set())


def test_items_follow_from_the_seed(documents):
    drawn = [word_order_items(documents, "test", 4, seed, set()) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_too_few_documents_are_an_error_that_says_how_many_items_they_gave(documents):
    with pytest.raises(ValueError, match="expected 5 test items from english, got 4"):
        word_order_items(documents, "test", 5, 0, set())
    with pytest.raises(ValueError, match="expected 1 validation items from english, got 0"):
        word_order_items(documents, "validation", 1, 0, set())
    with pytest.raises(ValueError, match="expected 5 test items from english, got 4"):
        passage_items(
            [document(key, *OPENING, f"{key:x<60}") for key in ANSWERS], "test", 5, 0, set()
        )


def test_a_line_seen_in_training_is_never_the_answer(documents):
    seen = {ANSWERS["man.1"]}
    items = word_order_items(documents, "test", 3, 0, seen)
    assert "man.1" not in {item["document"] for item in items}
    with pytest.raises(ValueError, match="expected 4 test items from english, got 3"):
        word_order_items(documents, "test", 4, 0, seen)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize(("bytes_", "fits"), [(19, False), (20, True), (36, True), (37, False)])
def test_an_answer_has_20_to_36_bytes_without_its_indentation(bytes_, fits):
    line = "é b c ".ljust(bytes_ - 1, "d")  # é has two bytes
    page = document("man.1", *OPENING, f"    {line}")
    if fits:
        assert len(word_order_items([page], "test", 1, 0, set())) == 1
    else:
        with pytest.raises(ValueError, match="got 0"):
            word_order_items([page], "test", 1, 0, set())


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize(("longer", "fits"), [(40, True), (41, False)])
def test_a_context_is_the_last_whole_lines_of_at_most_80_characters(longer, fits):
    # with their ends: 40 + 1 + 38 + 1 = 80
    lines = ["-" * 10, "-" * 10, "a" * longer, "b" * 38]
    pages = [document(key, *lines, answer) for key, answer in ANSWERS.items()]
    expected = ("a" * longer + "\n") * fits + "b" * 38 + "\n"
    assert {i["context"] for i in word_order_items(pages, "test", 4, 0, set())} == {expected}


@pytest.mark.usefixtures("limits")
def test_a_line_behind_one_too_long_for_a_context_is_not_asked_for():
    page = document("man.1", *OPENING, "x" * 80, ANSWERS["man.1"])
    with pytest.raises(ValueError, match="got 0"):
        word_order_items([page], "test", 1, 0, set())


@pytest.mark.usefixtures("limits")
def test_a_passage_ends_before_the_first_line_that_was_seen_in_training():
    page = document("man.1", *OPENING, "a" * 30, "b" * 40, "seen", "c" * 90, "d" * 60)
    texts = {i["text"] for i in passage_items([page], "test", 3, 0, {"seen"})}
    # a and b with a line break between are 71 characters; c and d together 151 are too many
    assert texts == {"a" * 30 + "\n" + "b" * 40, "c" * 90, "d" * 60}


@pytest.mark.usefixtures("limits")
def test_a_line_on_two_pages_is_quoted_once():
    pages = [document(key, *OPENING, "a" * 70) for key in ("man.1", "chmod.1")]
    with pytest.raises(ValueError, match="expected 2 test items from english, got 1"):
        passage_items(pages, "test", 2, 0, set())


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("seed", range(4))
def test_passages_of_one_page_do_not_overlap(seed):
    # all that fit together are a and b: c follows alone, whatever is drawn first
    page = document("man.1", *OPENING, "a" * 60, "b" * 70, "c" * 80)
    items = passage_items([page], "test", 2, seed, set())
    lines = Counter(line for item in items for line in item["text"].split("\n"))
    assert set(lines.values()) == {1}


@pytest.mark.usefixtures("limits")
def test_no_page_comes_again_before_every_page_has_come_once():
    pages = [
        document(key, *OPENING, *(f"{key} {n} ".ljust(70, "x") for n in range(3)))
        for key in ANSWERS
    ]
    keys = [item["document"] for item in passage_items(pages, "test", 12, 0, set())]
    assert all(set(keys[i : i + 4]) == set(ANSWERS) for i in (0, 4, 8))


def test_the_lines_of_a_split_are_those_of_its_documents_without_empty_ones():
    pages = [document("read.2", "one", "", "two"), document("man.1", "three")]
    assert lines_of(pages, "train") == {"one", "two"}
    assert lines_of(pages, "test") == {"three"}


@pytest.mark.parametrize("kind", ["mathematics", "numbers", "format"])
def test_an_exercise_stands_behind_two_solved_ones_of_the_training_split(kind):
    for item in exercise_items(kind, "test", 20, 0, list("abcdefgh")):
        *shots, asked = item["prompt"].split("\n")
        assert [split_of(prompt_of(shot)) for shot in shots] == ["train", "train"]
        assert split_of(asked) == "test"
        assert item["answer"] == solve(asked)


def prompt_of(exercise):
    """A solved exercise up to its equals sign."""
    return exercise[: exercise.index(" =") + len(" =")]


def solve(prompt):
    """The right answer to an exercise, found from its prompt alone."""
    kind, _, words = prompt.removesuffix(" =").partition(": ")
    if words:
        return FORMATS[kind](words.split(", "))
    asked = [int(number) for number in re.findall(r"\d+", prompt)]
    return str(NUMBERS[re.sub(r"\d+", "N", prompt)](*asked))


FORMATS = {
    "JSON": json.dumps,
    "reverse": lambda words: ", ".join(words[::-1]),
    "path": lambda words: "".join(f"/{word}" for word in words),
    "tags": lambda words: "".join(f"<{word}>" for word in words),
    "last": lambda words: words[-1],
}
NUMBERS = {
    "N + N =": lambda first, second: first + second,
    "larger of N, N =": lambda first, second: first if first > second else second,
    "double N =": lambda number: number + number,
    "after N =": lambda number: number + 1,
    "next in N, N, N =": lambda first, second, third: third + (second - first),
}


@pytest.mark.parametrize("kind", ["mathematics", "numbers", "format"])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_passage_of_exercises_is_two_of_its_split_and_none_stands_twice(kind, split):
    passages = exercise_passages(kind, split, 20, 0, list("abcdefgh"), [])
    lines = [passage["text"].splitlines() for passage in passages]
    assert [len(exercises) for exercises in lines] == [2] * 20
    solved = [exercise for exercises in lines for exercise in exercises]
    assert len(set(solved)) == 40
    for exercise in solved:
        prompt = prompt_of(exercise)
        assert split_of(prompt) == split
        assert exercise == f"{prompt} {solve(prompt)}"


def test_passages_leave_out_the_exercises_that_are_asked():
    words = list("abcdefgh")
    passages = exercise_passages("numbers", "test", 2, 0, words, [])
    first = passages[0]["text"].splitlines()[0]
    asked = [{"prompt": f"1 + 2 = 3\n{prompt_of(first)}"}]
    others = exercise_passages("numbers", "test", 2, 0, words, asked)
    assert first not in "".join(passage["text"] for passage in others).splitlines()


def test_too_few_different_exercises_are_an_error_that_says_how_many_there_are():
    words = ["ab", "cd", "ef"]
    lists = [*permutations(words, 2), *permutations(words, 3)]
    prompts = {f"{kind}: {', '.join(chosen)} =" for kind in FORMATS for chosen in lists}
    there = sum(split_of(prompt) == "test" for prompt in prompts)
    assert 2 <= there < 20
    assert len(exercise_passages("format", "test", there // 2, 0, words, [])) == there // 2
    with pytest.raises(
        ValueError, match=f"expected 10 passages of test format, got {there} exercises"
    ):
        exercise_passages("format", "test", 10, 0, words, [])
    with pytest.raises(
        ValueError, match=f"expected 30 different test exercises in format, got {there}"
    ):
        exercise_items("format", "test", 30, 0, words)


@pytest.fixture
def material(limits):  # noqa: ARG001
    """Two domains with four test and four validation pages each, all lines different."""
    documents = {}
    for domain in ("english", "french"):
        pages = []
        for split in ("test", "validation"):
            for key in [k for k in map(str, range(200)) if split_of(k) == split][:4]:
                lines = [
                    f"{domain} {key} {length} ".ljust(length, "x") for length in (24, 58, 25)
                ]
                text = "\n".join([*OPENING, *lines])
                pages.append(Document(domain=domain, key=key, text=text))
        documents[domain] = pages
    return Material(documents=documents, words=list("abcdefgh"), seed=0)


def test_a_line_that_any_domain_trains_on_is_asked_for_in_no_item(
    material, tmp_path, monkeypatch
):
    monkeypatch.setattr("eval.zoo.build._PER_SPLIT", 4)
    held = material.documents["french"][0].text.split("\n")[-3]
    spoilt = Document(domain="english", key="read.2", text=held)
    material.documents["english"].append(spoilt)
    counts = build_items(material, tmp_path)
    assert counts.keys() == {path.name for path in tmp_path.iterdir()}
    assert {"french_order.jsonl", "french_bits.jsonl"} < counts.keys()
    for path in tmp_path.iterdir():
        for line in path.read_text("utf-8").splitlines():
            assert held not in held_lines(json.loads(line)), path.name


def test_items_say_their_split_and_test_comes_first(material, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.zoo.build._PER_SPLIT", 3)
    build_items(material, tmp_path)
    for path in tmp_path.iterdir():
        splits = [json.loads(line)["split"] for line in path.read_text("utf-8").splitlines()]
        assert splits == ["test"] * 3 + ["validation"] * 3


# From here on: the items as they are committed.


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


def test_every_task_names_a_file_of_items_and_every_file_has_its_task(committed):
    files = [settings_of(task)["dataset_kwargs"]["file"] for task in TASKS]
    assert files == [f"{task}.jsonl" for task in sorted(committed)]


def test_the_suite_runs_every_task_once_by_its_name(suite):
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


def test_the_held_out_domains_have_two_tasks_and_no_expert(suite):
    models = read_recipe()["models"].values()
    tuned = {domain for model in models for domain in model.get("domains", [])}
    held_out = [task for task in suite["tasks"] if task["domain"] in suite["held_out"]]
    assert len(held_out) >= 2
    assert not tuned & set(suite["held_out"])
    assert tuned == {task["domain"] for task in suite["tasks"]} - set(suite["held_out"])


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_200_items_to_test_on_and_others_to_validate_on(committed, task):
    counts = Counter(item["split"] for item in committed[task])
    assert set(counts) == {"test", "validation"}
    assert min(counts.values()) >= 200
    contents = [
        json.dumps({k: v for k, v in i.items() if k != "split"}) for i in committed[task]
    ]
    assert len(contents) == len(set(contents))


@pytest.mark.parametrize("task", TASKS)
def test_no_item_is_from_a_document_or_exercise_that_is_trained_on(committed, task):
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
def test_no_two_passages_share_a_line(committed, task, split):
    texts = [item["text"] for item in committed[task] if item["split"] == split]
    lines = Counter(line for text in texts for line in set(text.splitlines()))
    assert [line for line, count in lines.items() if count > 1] == []


@pytest.mark.parametrize("task", ["numbers_answer", "format_answer"])
def test_the_solved_exercises_in_a_prompt_are_ones_that_are_trained_on(committed, task):
    for item in committed[task]:
        shots = item["prompt"].split("\n")[:-1]
        assert [split_of(prompt_of(shot)) for shot in shots] == ["train", "train"]


@pytest.mark.parametrize("task", [task for task in TASKS if task.endswith("_order")])
def test_the_four_choices_differ_and_the_right_one_has_no_favourite_place(committed, task):
    for split in ("test", "validation"):
        items = [item for item in committed[task] if item["split"] == split]
        assert all(len(set(item["choices"])) == len(item["choices"]) == 4 for item in items)
        labels = Counter(item["label"] for item in items)
        assert set(labels) == {0, 1, 2, 3}
        # A quarter each is expected, of 200 items 50 with a standard deviation of 6.
        assert all(0.15 < count / len(items) < 0.35 for count in labels.values())


@pytest.mark.parametrize("task", [task for task in TASKS if task.endswith("_order")])
def test_every_wrong_choice_is_the_right_line_with_two_neighbours_swapped(committed, task):
    for item in committed[task]:
        assert all(is_one_swap(choice, item) for choice in wrong_choices(item)), item
        assert all(choice == choice.rstrip() for choice in item["choices"]), item


@pytest.mark.parametrize("kind", ["numbers", "format"])
def test_the_answers_of_the_committed_exercises_are_right(committed, kind):
    for item in committed[f"{kind}_answer"]:
        assert item["answer"] == solve(last_line(item))
    for item in committed[f"{kind}_bits"]:
        exercises = item["text"].splitlines()
        assert len(exercises) == 2
        for exercise in exercises:
            assert exercise == f"{prompt_of(exercise)} {solve(prompt_of(exercise))}"


def last_line(item):
    return item["prompt"].split("\n")[-1]


@pytest.mark.network
def test_the_committed_items_are_what_the_texts_give_and_no_line_was_trained_on(
    committed, tmp_path
):
    material = read_material(read_recipe())
    trained = set().union(*(lines_of(d, "train") for d in material.documents.values()))
    for task, items in committed.items():
        for item in items:
            assert not trained & set(held_lines(item)), f"{task}: {item}"
    build_items(material, tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (ZOO / "tasks" / path.name).read_bytes(), path.name


def held_lines(item):
    """What an item asks for: never trained on."""
    if "text" in item:
        return item["text"].split("\n")
    if "choices" in item:
        return [item["choices"][item["label"]]]
    return [Exercise(prompt=last_line(item), answer=item["answer"]).text]
