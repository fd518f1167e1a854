"""Rules that draw items and exercises."""

import json
import random
import re
from collections import Counter
from itertools import islice, permutations

import pytest

from scripts.zoo.build import build_items
from scripts.zoo.items import (
    Exercise,
    addition,
    common_words,
    draw,
    exercise_items,
    exercise_passages,
    lines_of,
    numbers,
    output_format,
    passage_items,
    word_order_items,
)
from scripts.zoo.material import Material
from scripts.zoo.texts import Document, split_of
from tests.zoo_answers import (
    FORMATS,
    NUMBERS,
    document,
    held_lines,
    indent,
    is_one_swap,
    prompt_of,
    solve,
    wrong_choices,
)


def test_addition_exercises_are_correct():
    rng = random.Random(0)
    for exercise in (addition(rng) for _ in range(100)):
        first, plus, second, equals = exercise.prompt.split(" ")
        assert (plus, equals) == ("+", "=")
        assert int(exercise.answer) == int(first) + int(second)
    assert Exercise(prompt="1 + 2 =", answer="3").text == "1 + 2 = 3\n"


def test_number_exercises_are_correct():
    rng = random.Random(0)
    drawn = [numbers(rng) for _ in range(500)]
    kinds = Counter(re.sub(r"\d+", "N", exercise.prompt) for exercise in drawn)
    assert kinds.keys() == NUMBERS.keys()
    assert min(kinds.values()) > 60  # 100 of each are expected, with a standard deviation of 9
    for exercise in drawn:
        numbers_in_prompt = [int(number) for number in re.findall(r"\d+", exercise.prompt)]
        assert int(exercise.answer) == NUMBERS[re.sub(r"\d+", "N", exercise.prompt)](
            *numbers_in_prompt
        )


def test_mathematics_exercises_are_additions():
    prompts = [exercise.prompt for exercise in islice(draw("mathematics", "train", 0, []), 50)]
    assert all(re.fullmatch(r"\d+ \+ \d+ =", prompt) for prompt in prompts)


def test_format_exercises_follow_their_format():
    answers = {}
    rng = random.Random(0)
    while len(answers) < 60:  # 5 formats of 12 choices of two or three out of three words
        exercise = output_format(rng, ["ab", "cd", "ef"])
        answers[exercise.prompt] = exercise.answer
    assert answers["JSON: ab, cd ="] == '["ab", "cd"]'
    assert answers["reverse: ab, cd, ef ="] == "ef, cd, ab"
    assert answers["path: cd, ab ="] == "/cd/ab"
    assert answers["tags: ab, ef, cd ="] == "<ab><ef><cd>"
    assert answers["last: ab, ef, cd ="] == "cd"


@pytest.mark.parametrize("kind", ["mathematics", "numbers", "format"])
def test_exercises_depend_on_the_seed_and_splits_are_disjoint(kind):
    def first(split, seed):
        return list(islice(draw(kind, split, seed, ["one", "two", "three", "four"]), 50))

    assert first("train", 1) == first("train", 1) != first("train", 2)
    prompts = [{e.prompt for e in first(s, 1)} for s in ("train", "validation", "test")]
    assert len(set.union(*prompts)) == sum(map(len, prompts))


def test_common_words_are_sorted_by_frequency_then_alphabet():
    texts = ["two one three two", "Two is it a lengthywording one the the the"]
    assert common_words(texts, 4) == ["the", "one", "two", "three"]
    assert common_words(texts, 1) == ["the"]


OPENING = ["a first line", "a second line", "a third line"]  # too short to be an answer


ANSWERS = {  # of the test split: a page to the one line of it that can be an answer
    "printf.3": "print what you are told to",
    "chmod.1": "change the mode of a file",
    "man.1": "show a page of the manual",
    "alloca.3": "take memory off the stack",
}


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    """Limits of the tests' own: the benchmark's are tuned to its texts."""
    monkeypatch.setattr("scripts.zoo.items._LONGEST_CONTEXT", 80)
    monkeypatch.setattr("scripts.zoo.items._LINE_BYTES", range(20, 37))
    monkeypatch.setattr("scripts.zoo.items._SHORTEST_PASSAGE", 60)
    monkeypatch.setattr("scripts.zoo.items._LONGEST_PASSAGE", 140)


@pytest.fixture
def documents():
    return [document(key, *OPENING, answer) for key, answer in ANSWERS.items()]


def test_wrong_choices_swap_two_neighbouring_words():
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


def test_every_page_yields_its_eligible_line(documents):
    items = word_order_items(documents, "test", 4, 0, set())
    assert {i["document"]: i["choices"][i["label"]] for i in items} == ANSWERS
    assert all(len(set(i["choices"])) == 4 for i in items)
    for item in items:
        assert all(is_one_swap(c, item) for c in wrong_choices(item))


def test_choices_keep_the_indentation():
    page = document("man.1", *OPENING, "\t    return manual pages here")
    [item] = word_order_items([page], "test", 1, 0, set())
    assert len(set(item["choices"])) == 4
    assert {indent(choice) for choice in item["choices"]} == {"\t    "}


@pytest.mark.parametrize(
    ("line", "is_used"),
    [
        ("three different wordsssss", False),  # two pairs of neighbours
        ("manual pages pages describe", False),  # three pairs, of which one is of equal words
        ("manual pages pages describe it", True),
        ("manual  pages describe commands", False),  # two spaces: the choices would have one
    ],
)
def test_line_needs_three_distinct_swaps(line, is_used):
    page = document("man.1", *OPENING, line)
    if is_used:
        [item] = word_order_items([page], "test", 1, 0, set())
        assert len(set(item["choices"])) == 4
    else:
        with pytest.raises(ValueError, match="expected 1 test items from english, got 0"):
            word_order_items([page], "test", 1, 0, set())


def test_items_depend_on_the_seed(documents):
    drawn = [word_order_items(documents, "test", 4, seed, set()) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_too_few_documents_are_refused_with_the_count(documents):
    with pytest.raises(ValueError, match="expected 5 test items from english, got 4"):
        word_order_items(documents, "test", 5, 0, set())
    with pytest.raises(ValueError, match="expected 1 validation items from english, got 0"):
        word_order_items(documents, "validation", 1, 0, set())
    with pytest.raises(ValueError, match="expected 5 test items from english, got 4"):
        passage_items(
            [document(key, *OPENING, f"{key:x<60}") for key in ANSWERS], "test", 5, 0, set()
        )


def test_training_lines_are_never_answers(documents):
    seen = {ANSWERS["man.1"]}
    items = word_order_items(documents, "test", 3, 0, seen)
    assert "man.1" not in {item["document"] for item in items}
    with pytest.raises(ValueError, match="expected 4 test items from english, got 3"):
        word_order_items(documents, "test", 4, 0, seen)


@pytest.mark.parametrize(("bytes_", "fits"), [(19, False), (20, True), (36, True), (37, False)])
def test_answer_length_is_20_to_36_bytes(bytes_, fits):
    line = "é b c ".ljust(bytes_ - 1, "d")  # é has two bytes
    page = document("man.1", *OPENING, f"    {line}")
    if fits:
        assert len(word_order_items([page], "test", 1, 0, set())) == 1
    else:
        with pytest.raises(ValueError, match="got 0"):
            word_order_items([page], "test", 1, 0, set())


@pytest.mark.parametrize(("longer", "fits"), [(40, True), (41, False)])
def test_context_is_whole_lines_of_at_most_80_characters(longer, fits):
    # with their ends: 40 + 1 + 38 + 1 = 80
    lines = ["-" * 10, "-" * 10, "a" * longer, "b" * 38]
    pages = [document(key, *lines, answer) for key, answer in ANSWERS.items()]
    expected = ("a" * longer + "\n") * fits + "b" * 38 + "\n"
    assert {i["context"] for i in word_order_items(pages, "test", 4, 0, set())} == {expected}


def test_line_after_an_overlong_line_is_not_used():
    page = document("man.1", *OPENING, "x" * 80, ANSWERS["man.1"])
    with pytest.raises(ValueError, match="got 0"):
        word_order_items([page], "test", 1, 0, set())


def test_passage_ends_before_a_training_line():
    page = document("man.1", *OPENING, "a" * 30, "b" * 40, "seen", "c" * 90, "d" * 60)
    texts = {i["text"] for i in passage_items([page], "test", 3, 0, {"seen"})}
    # a and b with a line break between are 71 characters; c and d together 151 are too many
    assert texts == {"a" * 30 + "\n" + "b" * 40, "c" * 90, "d" * 60}


def test_line_on_two_pages_is_used_once():
    pages = [document(key, *OPENING, "a" * 70) for key in ("man.1", "chmod.1")]
    with pytest.raises(ValueError, match="expected 2 test items from english, got 1"):
        passage_items(pages, "test", 2, 0, set())


@pytest.mark.parametrize("seed", range(4))
def test_passages_of_one_page_do_not_overlap(seed):
    # all that fit together are a and b: c follows alone, whatever is drawn first
    page = document("man.1", *OPENING, "a" * 60, "b" * 70, "c" * 80)
    items = passage_items([page], "test", 2, seed, set())
    lines = Counter(line for item in items for line in item["text"].split("\n"))
    assert set(lines.values()) == {1}


def test_pages_are_used_in_rounds():
    pages = [
        document(key, *OPENING, *(f"{key} {n} ".ljust(70, "x") for n in range(3)))
        for key in ANSWERS
    ]
    keys = [item["document"] for item in passage_items(pages, "test", 12, 0, set())]
    assert all(set(keys[i : i + 4]) == set(ANSWERS) for i in (0, 4, 8))


def test_lines_of_a_split_exclude_empty_lines():
    pages = [document("read.2", "one", "", "two"), document("man.1", "three")]
    assert lines_of(pages, "train") == {"one", "two"}
    assert lines_of(pages, "test") == {"three"}


@pytest.mark.parametrize("kind", ["mathematics", "numbers", "format"])
def test_exercise_has_two_solved_training_exercises_as_prompt(kind):
    for item in exercise_items(kind, "test", 20, 0, list("abcdefgh")):
        *shots, question = item["prompt"].split("\n")
        assert [split_of(prompt_of(shot)) for shot in shots] == ["train", "train"]
        assert split_of(question) == "test"
        assert item["answer"] == solve(question)


@pytest.mark.parametrize("kind", ["mathematics", "numbers", "format"])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_exercise_passages_have_two_distinct_exercises_of_the_split(kind, split):
    passages = exercise_passages(kind, split, 20, 0, list("abcdefgh"), [])
    lines = [passage["text"].splitlines() for passage in passages]
    assert [len(exercises) for exercises in lines] == [2] * 20
    solved = [exercise for exercises in lines for exercise in exercises]
    assert len(set(solved)) == 40
    for exercise in solved:
        prompt = prompt_of(exercise)
        assert split_of(prompt) == split
        assert exercise == f"{prompt} {solve(prompt)}"


def test_passages_exclude_exercises_used_as_questions():
    words = list("abcdefgh")
    passages = exercise_passages("numbers", "test", 2, 0, words, [])
    first = passages[0]["text"].splitlines()[0]
    questions = [{"prompt": f"1 + 2 = 3\n{prompt_of(first)}"}]
    others = exercise_passages("numbers", "test", 2, 0, words, questions)
    assert first not in "".join(passage["text"] for passage in others).splitlines()


def test_too_few_exercises_are_refused_with_the_count():
    words = ["ab", "cd", "ef"]
    lists = [*permutations(words, 2), *permutations(words, 3)]
    prompts = {f"{kind}: {', '.join(chosen)} =" for kind in FORMATS for chosen in lists}
    n_exercises = sum(split_of(prompt) == "test" for prompt in prompts)
    assert 2 <= n_exercises < 20
    assert (
        len(exercise_passages("format", "test", n_exercises // 2, 0, words, []))
        == n_exercises // 2
    )
    with pytest.raises(ValueError, match=f"expected 10 .* got {n_exercises}"):
        exercise_passages("format", "test", 10, 0, words, [])
    with pytest.raises(ValueError, match=f"expected 30 .* got {n_exercises}"):
        exercise_items("format", "test", 30, 0, words)


@pytest.fixture
def material():
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


def test_lines_trained_on_in_any_domain_are_excluded(material, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.zoo.build._PER_SPLIT", 4)
    held = material.documents["french"][0].text.split("\n")[-3]
    spoilt = Document(domain="english", key="read.2", text=held)
    material.documents["english"].append(spoilt)
    counts = build_items(material, tmp_path)
    assert counts.keys() == {path.name for path in tmp_path.iterdir()}
    assert {"french_order.jsonl", "french_bits.jsonl"} < counts.keys()
    for path in tmp_path.iterdir():
        for line in path.read_text("utf-8").splitlines():
            assert held not in held_lines(json.loads(line)), path.name


def test_items_are_labelled_by_split_test_first(material, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.zoo.build._PER_SPLIT", 3)
    build_items(material, tmp_path)
    for path in tmp_path.iterdir():
        splits = [json.loads(line)["split"] for line in path.read_text("utf-8").splitlines()]
        assert splits == ["test"] * 3 + ["validation"] * 3
