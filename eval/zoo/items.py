"""Test and validation items, drawn from documents and exercises that no model is trained on."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from eval.zoo.exercises import Exercise, draw
from eval.zoo.texts import Document, Split

Item = dict[str, Any]
_LONGEST_CONTEXT = 64  # characters, as for passages
_LINE_BYTES = range(20, 33)
_SHORTEST_PASSAGE, _LONGEST_PASSAGE = 50, 100
_PER_DOCUMENT = 8


def next_line_items(
    documents: Sequence[Document], split: Split, count: int, seed: int, seen_lines: set[str]
) -> list[Item]:
    """Ask which of four lines continues a passage.

    Args:
        documents: Documents of one domain, of every split.
        split: The split to draw from, never ``train``.
        count: Number of items.
        seed: The same seed gives the same items.
        seen_lines: Lines of the training documents: never the right answer.

    Returns:
        Items with ``context``, four ``choices`` of about one length from the same domain,
        and the ``label`` of the right one.

    Raises:
        ValueError: If the documents do not yield that many items.
    """
    rng = random.Random(f"{seed}/next/{documents[0].domain}/{split}")
    held = [d for d in documents if d.split == split]
    pool = sorted({line for d in held for line in _lines(d) if _fits(line, seen_lines)})
    items = []
    for document, position in _positions(held, rng, lambda line: _fits(line, seen_lines)):
        lines = _lines(document)
        answer, context = lines[position], _context(lines[:position])
        alike = [p for p in pool if abs(len(p) - len(answer)) <= 3 and p not in document.text]
        if len(alike) < 3 or not context:
            continue
        choices = [answer, *rng.sample(alike, 3)]
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

    Args and errors as for :func:`next_line_items`; items hold ``document`` and ``text``.
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


def exercise_items(
    kind: str, split: Split, count: int, seed: int, words: Sequence[str]
) -> list[Item]:
    """Exercises to be answered by generation, each after two solved ones from training.

    Returns:
        Items with ``prompt`` (ends where the answer begins) and ``answer``, no prompt twice.
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
    """Every line that stands in a document of the split."""
    return {line for d in documents if d.split == split for line in _lines(d)}


def _two(exercises: Iterator[Exercise]) -> Iterator[Exercise]:
    return itertools.islice(exercises, 2)


def _lines(document: Document) -> list[str]:
    return [line for line in document.text.split("\n") if line.strip()]


def _fits(line: str, seen_lines: set[str]) -> bool:
    return len(line.strip().encode()) in _LINE_BYTES and line not in seen_lines


def _context(lines: Sequence[str]) -> str:
    """As many of the last lines as fit the context, each ended by a line break."""
    context = ""
    for line in reversed(lines):
        if len(line) + 1 + len(context) > _LONGEST_CONTEXT:
            break
        context = f"{line}\n{context}"
    return context


def _passage(lines: Sequence[str], seen_lines: set[str], quoted: set[str]) -> str:
    """Lines up to the first that was seen in training, is quoted already, or is too much."""
    passage = ""
    for line in lines:
        if (
            line in seen_lines
            or line in quoted
            or len(passage) + 1 + len(line) > _LONGEST_PASSAGE
        ):
            break
        passage = f"{passage}\n{line}" if passage else line
    return passage


def _positions(
    documents: Sequence[Document], rng: random.Random, wanted: Callable[[str], bool]
) -> Iterator[tuple[Document, int]]:
    """Up to eight places per document, every document before any comes again."""
    rounds: list[list[tuple[Document, int]]] = [[] for _ in range(_PER_DOCUMENT)]
    for document in documents:
        places = [i for i, line in enumerate(_lines(document)) if i > 2 and wanted(line)]
        rng.shuffle(places)
        for round_, place in zip(rounds, places, strict=False):
            round_.append((document, place))
    for round_ in rounds:
        rng.shuffle(round_)
        yield from round_
