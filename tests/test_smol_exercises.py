"""Word problems of the real model's benchmark: right, of every kind, none in two splits."""

import re
from itertools import islice

import pytest

from scripts.smol.exercises import answer_items, draw, passage_items, training_text

_STEP = re.compile(r"(-?\d+) ([-+*/]) (-?\d+) = (-?\d+)\.")
_RESULT = {
    "+": int.__add__,
    "-": int.__sub__,
    "*": int.__mul__,
    "/": int.__floordiv__,
}


def test_every_step_is_right_and_the_last_is_the_answer():
    for problem in islice(draw("train", 7), 400):
        steps = _STEP.findall(problem.steps)
        assert len(steps) == 2
        for first, sign, second, result in steps:
            assert _RESULT[sign](int(first), int(second)) == int(result)
            assert sign != "/" or int(first) % int(second) == 0
        assert int(steps[-1][3]) == problem.answer


def test_the_question_names_every_number_that_no_step_makes():
    for problem in islice(draw("test", 7), 400):
        made = [result for *_, result in _STEP.findall(problem.steps)]
        used = [n for a, _, b, _ in _STEP.findall(problem.steps) for n in (a, b)]
        named = re.findall(r"\d+", problem.question)
        assert set(used) <= {*named, *made}


def test_questions_belong_to_one_split():
    questions = {s: {p.question for p in islice(draw(s, 7), 150)} for s in ("train", "test")}
    assert len(questions["train"]) == len(questions["test"]) == 150
    assert not questions["train"] & questions["test"]
    assert all(p.split == "validation" for p in islice(draw("validation", 7), 20))


def test_items_of_the_two_tasks_are_other_problems():
    asked = {item["prompt"].split("\n\n")[-1] for item in answer_items("test", 30, 7)}
    passages = passage_items("test", 30, 7)
    assert len(asked) == len(passages) == 30
    assert not any(item["text"].startswith(prompt) for prompt in asked for item in passages)


def test_shots_are_training_problems():
    [item] = answer_items("test", 1, 7)
    first, second, asked = item["prompt"].split("\n\n")
    shots = training_text(2, 8)
    assert [f"{first}\n\n", f"{second}\n\n"] == shots
    assert asked.endswith("\nAnswer:")


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_same_seed_gives_the_same_problems(split):
    assert list(islice(draw(split, 3), 20)) == list(islice(draw(split, 3), 20))
    assert list(islice(draw(split, 3), 20)) != list(islice(draw(split, 4), 20))
