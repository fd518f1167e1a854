"""Reference solutions of the embedded benchmark's items."""

import json
import re

from scripts.zoo.items import Exercise
from scripts.zoo.material import ZOO
from scripts.zoo.texts import Document

TASKS = sorted(path.stem for path in (ZOO / "tasks").glob("*.yaml"))


def document(key, *lines):
    return Document(domain="english", key=key, text="\n".join(lines) + "\n")


def wrong_choices(item):
    return [c for place, c in enumerate(item["choices"]) if place != item["label"]]


def is_one_swap(choice, item):
    """True if a choice is the right one with two neighbouring words swapped."""
    answer = item["choices"][item["label"]]
    right, wrong = answer.split(), choice.split()
    first, *rest = [i for i in range(len(right)) if right[i] != wrong[i]]
    swapped = rest == [first + 1] and right[first : first + 2] == wrong[first : first + 2][::-1]
    return swapped and indent(choice) == indent(answer)


def indent(line):
    return line[: len(line) - len(line.lstrip())]


def prompt_of(exercise):
    """A solved exercise up to its equals sign."""
    return exercise[: exercise.index(" =") + len(" =")]


def solve(prompt):
    """Solve an exercise from its prompt alone."""
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


def last_line(item):
    return item["prompt"].split("\n")[-1]


def held_lines(item):
    """What an item asks for: never trained on."""
    if "text" in item:
        return item["text"].split("\n")
    if "choices" in item:
        return [item["choices"][item["label"]]]
    return [Exercise(prompt=last_line(item), answer=item["answer"]).text]
