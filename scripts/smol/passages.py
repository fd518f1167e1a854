"""Held-out passages of some hundred characters, for models that read long contexts."""

import random
from collections.abc import Sequence

from scripts.zoo.items import lines_of
from scripts.zoo.texts import Document, Split

_MOST_SEEN = 0.25
"""Largest share of a passage's characters in lines that a training document holds too."""


def passages(
    documents: Sequence[Document],
    split: Split,
    *,
    count: int,
    shortest: int,
    longest: int,
    seed: int,
) -> list[dict[str, str]]:
    """Draw passages of whole lines, from as many documents as there are, none overlapping.

    Args:
        documents: Documents of one domain, of every split.
        split: The split to draw from, never ``train``.
        count: Number of passages.
        shortest: Fewest characters.
        longest: Most characters.
        seed: The same seed gives the same passages.

    Returns:
        Items with ``document`` and ``text``.

    Raises:
        ValueError: If the documents do not yield that many.
    """
    rng = random.Random(f"{seed}/long passage/{documents[0].domain}/{split}")
    seen = lines_of(documents, "train")
    # what is left of each document: runs of lines that no passage holds yet
    left = [(d.key, [d.text.split("\n")]) for d in documents if d.split == split]
    items: list[dict[str, str]] = []
    while left and len(items) < count:
        rng.shuffle(left)
        for key, runs in left[: count - len(items)]:
            if (passage := _take(runs, seen, shortest, longest, rng)) is not None:
                items.append({"document": key, "text": passage})
            else:
                runs.clear()
        left = [(key, runs) for key, runs in left if runs]
    if len(items) < count:
        raise ValueError(
            f"expected {count} {split} passages from {documents[0].domain}, got {len(items)}"
        )
    return items


def _take(
    runs: list[list[str]], seen: set[str], shortest: int, longest: int, rng: random.Random
) -> str | None:
    """Cut a passage out of a document's runs of lines; None if there is none any more."""
    for place, lines in enumerate(runs):
        if (found := _cut(lines, seen, shortest, longest, rng)) is not None:
            start, stop = found
            runs[place : place + 1] = [lines[:start], lines[stop:]]
            return "\n".join(lines[start:stop])
    return None


def _cut(
    lines: Sequence[str], seen: set[str], shortest: int, longest: int, rng: random.Random
) -> tuple[int, int] | None:
    """Find the lines of a passage, from a random place and mostly unseen; None if none is."""
    places = [place for place, line in enumerate(lines) if line.strip()]
    for start in rng.sample(places, len(places)):
        stop, length = start, 0
        while stop < len(lines) and length + len(lines[stop]) + 1 <= longest:
            length += len(lines[stop]) + 1
            stop += 1
        repeated = sum(len(line) + 1 for line in lines[start:stop] if line in seen)
        if length > shortest and repeated <= _MOST_SEEN * length:
            return start, stop
    return None
