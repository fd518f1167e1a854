"""Task items: word order, passages and generated exercises, none of them trained on."""

import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.zoo.texts import Document, Split, split_of

Item = dict[str, Any]
_LONGEST_CONTEXT = 40  # characters, as for passages
_LINE_BYTES = range(24, 53)
_SHORTEST_PASSAGE, _LONGEST_PASSAGE = 36, 72
_PER_DOCUMENT = 16
_EXERCISES_PER_PASSAGE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """A prompt that ends where the answer begins, and the answer, without a line break."""

    prompt: str
    answer: str

    @property
    def split(self) -> Split:
        """The split, a function of the prompt alone: no test exercise is trained on."""
        return split_of(self.prompt)

    @property
    def text(self) -> str:
        """The solved exercise, one line of training text."""
        return f"{self.prompt} {self.answer}\n"


def addition(rng: random.Random) -> Exercise:
    """The sum of two numbers below 100."""
    first, second = rng.randrange(100), rng.randrange(100)
    return Exercise(prompt=f"{first} + {second} =", answer=str(first + second))


def numbers(rng: random.Random) -> Exercise:
    """A sum, the larger of two numbers, a double, a successor, or a sequence to go on with."""
    first, second, step = rng.randrange(100), rng.randrange(100), rng.randrange(1, 10)
    sequence = ", ".join(str(first + i * step) for i in range(3))
    prompt, answer = rng.choice(
        [
            (f"{first} + {second} =", first + second),
            (f"larger of {first}, {second} =", max(first, second)),
            (f"double {first} =", 2 * first),
            (f"after {first} =", first + 1),
            (f"next in {sequence} =", first + 3 * step),
        ]
    )
    return Exercise(prompt=prompt, answer=str(answer))


def output_format(rng: random.Random, words: Sequence[str]) -> Exercise:
    """Write two or three words in the format that the prompt names."""
    items = rng.sample(words, rng.randint(2, 3))
    kind, answer = rng.choice(
        [
            ("JSON", json.dumps(items)),
            ("reverse", ", ".join(reversed(items))),
            ("path", "/" + "/".join(items)),
            ("tags", "".join(f"<{item}>" for item in items)),
            ("last", items[-1]),
        ]
    )
    return Exercise(prompt=f"{kind}: {', '.join(items)} =", answer=answer)


def common_words(texts: Iterable[str], count: int) -> list[str]:
    """The most frequent lower-case words of 3 to 8 letters, ties in alphabetical order."""
    counts = Counter(word for text in texts for word in re.findall(r"\b[a-z]{3,8}\b", text))
    return sorted(counts, key=lambda word: (-counts[word], word))[:count]


_NUMBERS = {"mathematics": addition, "numbers": numbers}


def draw(kind: str, split: Split, seed: int, words: Sequence[str]) -> Iterator[Exercise]:
    """Yield exercises of one kind and split for ever; the same ones for the same seed."""
    rng = random.Random(f"{seed}/{kind}/{split}")
    while True:
        exercise = output_format(rng, words) if kind == "format" else _NUMBERS[kind](rng)
        if exercise.split == split:
            yield exercise


def word_order_items(
    documents: Sequence[Document], split: Split, count: int, seed: int, seen_lines: set[str]
) -> list[Item]:
    """Ask which of four lines continues a passage: three have two neighbouring words swapped.

    Models of this size do not follow a topic, so lines of other documents would test nothing;
    word order is learnt domain by domain.

    Args:
        documents: Documents of one domain, of every split.
        split: The split to draw from, never ``train``.
        count: Number of items.
        seed: The same seed gives the same items.
        seen_lines: Lines of the training documents: never the right answer.

    Returns:
        Items with ``context``, four ``choices`` and the ``label`` of the right one.

    Raises:
        ValueError: If the documents do not yield that many items.
    """
    rng = random.Random(f"{seed}/order/{documents[0].domain}/{split}")
    held = [d for d in documents if d.split == split]
    items = []
    for document, position in _positions(held, rng, lambda line: _fits(line, seen_lines)):
        lines = _lines(document)
        answer, context = lines[position], _context(lines[:position])
        swapped = _with_neighbours_swapped(answer)
        if len(swapped) < 3 or not context:
            continue
        choices = [answer, *rng.sample(swapped, 3)]
        rng.shuffle(choices)
        items.append(
            {
                "document": document.key,
                "context": context,
                "choices": choices,
                "label": choices.index(answer),
            }
        )
        if len(items) == count:
            return items
    raise ValueError(
        f"expected {count} {split} items from {documents[0].domain}, got {len(items)}"
    )


def passage_items(
    documents: Sequence[Document], split: Split, count: int, seed: int, seen_lines: set[str]
) -> list[Item]:
    """Passages to measure bits per byte on: whole lines, none seen in training, none twice.

    Args and errors as for :func:`word_order_items`; items hold ``document`` and ``text``.
    """
    rng = random.Random(f"{seed}/passage/{documents[0].domain}/{split}")
    held = [d for d in documents if d.split == split]
    items, quoted = [], set[str]()
    for document, position in _positions(held, rng, lambda line: line not in seen_lines):
        passage = _passage(_lines(document)[position:], seen_lines, quoted)
        if len(passage) < _SHORTEST_PASSAGE:
            continue
        quoted.update(passage.split("\n"))
        items.append({"document": document.key, "text": passage})
        if len(items) == count:
            return items
    raise ValueError(
        f"expected {count} {split} items from {documents[0].domain}, got {len(items)}"
    )


def exercise_passages(
    kind: str, split: Split, count: int, seed: int, words: Sequence[str], items: Sequence[Item]
) -> list[Item]:
    """Solved exercises, two to a passage, to measure bits per byte on; none occurs twice.

    Args and errors as for :func:`exercise_items`, whose ``items`` of the same kind and split
    are left out: the two tasks are two samples of the domain.
    """
    asked = {item["prompt"].split("\n")[-1] for item in items}
    drawn = dict.fromkeys(
        exercise.text
        for exercise in itertools.islice(draw(kind, split, seed + 2, words), 100 * count)
        if exercise.prompt not in asked
    )
    if len(drawn) < count * _EXERCISES_PER_PASSAGE:
        raise ValueError(
            f"expected {count} passages of {split} {kind}, got {len(drawn)} exercises"
        )
    exercises = iter(drawn)
    return [
        {"text": "".join(itertools.islice(exercises, _EXERCISES_PER_PASSAGE))}
        for _ in range(count)
    ]


def exercise_items(
    kind: str, split: Split, count: int, seed: int, words: Sequence[str]
) -> list[Item]:
    """Exercises to be answered by generation, each after two solved ones from training.

    Returns:
        Items with ``prompt`` (its last line is the exercise and ends where the answer begins)
        and ``answer``, no exercise twice.
    """
    solved = draw(kind, "train", seed + 1, words)
    unique: dict[str, Item] = {}
    for exercise in itertools.islice(draw(kind, split, seed, words), 100 * count):
        shots = "".join(shot.text for shot in _two(solved))
        unique.setdefault(
            exercise.prompt, {"prompt": shots + exercise.prompt, "answer": exercise.answer}
        )
        if len(unique) == count:
            return list(unique.values())
    raise ValueError(
        f"expected {count} different {split} exercises in {kind}, got {len(unique)}"
    )


def lines_of(documents: Sequence[Document], split: Split) -> set[str]:
    """Every line of every document of the split."""
    return {line for d in documents if d.split == split for line in _lines(d)}


def _two(exercises: Iterator[Exercise]) -> Iterator[Exercise]:
    return itertools.islice(exercises, 2)


def _lines(document: Document) -> list[str]:
    return [line for line in document.text.split("\n") if line.strip()]


def _with_neighbours_swapped(line: str) -> list[str]:
    """Every variant of the line with two different neighbouring words swapped."""
    indent, words = line[: len(line) - len(line.lstrip())], line.split()
    return [
        indent + " ".join([*words[:i], words[i + 1], words[i], *words[i + 2 :]])
        for i in range(len(words) - 1)
        if words[i] != words[i + 1]
    ]


def _fits(line: str, seen_lines: set[str]) -> bool:
    single_spaced = " ".join(line.split()) == line.strip()
    return (
        single_spaced and len(line.strip().encode()) in _LINE_BYTES and line not in seen_lines
    )


def _context(lines: Sequence[str]) -> str:
    """As many of the last lines as fit into 40 characters, each with its line break."""
    context = ""
    for line in reversed(lines):
        if len(line) + 1 + len(context) > _LONGEST_CONTEXT:
            break
        context = f"{line}\n{context}"
    return context


def _passage(lines: Sequence[str], seen_lines: set[str], quoted: set[str]) -> str:
    """Lines up to the first that is in a training document, quoted already, or too long."""
    passage = ""
    for line in lines:
        repeated = line in quoted or line in passage.split("\n")
        if line in seen_lines or repeated or len(passage) + 1 + len(line) > _LONGEST_PASSAGE:
            break
        passage = f"{passage}\n{line}" if passage else line
    return passage


def _positions(
    documents: Sequence[Document], rng: random.Random, wanted: Callable[[str], bool]
) -> Iterator[tuple[Document, int]]:
    """Yield up to 16 line positions per document, round robin over the documents."""
    rounds: list[list[tuple[Document, int]]] = [[] for _ in range(_PER_DOCUMENT)]
    for document in documents:
        places = [i for i, line in enumerate(_lines(document)) if i > 2 and wanted(line)]
        rng.shuffle(places)
        for round_, place in zip(rounds, places, strict=False):
            round_.append((document, place))
    for round_ in rounds:
        rng.shuffle(round_)
        yield from round_
