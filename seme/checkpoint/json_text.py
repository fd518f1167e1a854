"""JSON of untrusted files: parsed within a budget of memory, its numbers and depth bounded.

Python's parser takes up to forty bytes of memory for a byte of JSON, reads numbers of thousands
of digits that later arithmetic cannot hold, and keeps what no text file can: lone surrogates.
"""

import json
import re
from collections import Counter
from typing import Any

from seme.checkpoint.regular_file import shown

BUDGET = 200_000_000
"""Most bytes that parsing may take beyond the bytes of the text."""
_OBJECT_BYTES, _LIST_BYTES, _VALUE_BYTES = 250, 100, 75
"""Memory of an object, a list, and a value with its place in them, rounded up (measured)."""
_MAX_DIGITS = 40
"""Of an integer: tokenizers of transformers give a length of 31 digits for "no limit"."""
_MAX_DEPTH = 64
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_FOUR_BYTES = re.compile(rb"[\xf0-\xf4]")
"""First byte of a character that makes Python store all characters in four bytes."""


def parse_object(
    text: bytes, *, what: str, budget: int = BUDGET, unique: bool = False
) -> dict[str, Any]:
    """Parse a JSON object from UTF-8.

    Args:
        text: The whole text.
        what: What it is, with the file's name; begins the error.
        budget: Most bytes of memory to take beyond those of ``text``.
        unique: Refuse an object that has a name twice, instead of keeping the last.

    Raises:
        ValueError: If it is no object, has a number of more than 40 digits, more than 64
            levels, text that is not Unicode, or more values than fit the budget.
    """
    _check_size(text, what, budget)
    try:
        parsed = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique if unique else None,
            parse_int=_bounded_int,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} cannot be parsed: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{what} must hold a JSON object, got {shown(parsed)}")
    _check_depth(parsed, what)
    if _SURROGATE.search(text):
        _check_unicode(parsed, what)
    return parsed


def _check_size(text: bytes, what: str, budget: int) -> None:
    """Refuse text whose values would take more memory than the budget; an upper bound."""
    width = 1 if text.isascii() else 4 if _FOUR_BYTES.search(text) else 2
    taken = (
        2 * width * len(text)  # as one text, and again if it is one long string
        + _OBJECT_BYTES * text.count(b"{")
        + _LIST_BYTES * text.count(b"[")
        + _VALUE_BYTES * (text.count(b",") + text.count(b":"))
    )
    if taken > budget:
        raise ValueError(
            f"{what} is too large: its {len(text)} bytes could take {taken // 10**6} MB of "
            f"memory, expected at most {budget // 10**6} MB"
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object, refusing duplicate names."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"duplicate name {shown(twice)}")
    return entries


def _bounded_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits, expected at most {_MAX_DIGITS}")
    return int(digits)


def _check_depth(parsed: dict[str, Any], what: str) -> None:
    level: list[Any] = [parsed]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"{what} is nested more than {_MAX_DEPTH} levels deep")


def _check_unicode(parsed: dict[str, Any], what: str) -> None:
    """Refuse lone surrogates, which no file and no terminal can hold."""
    try:
        json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} holds {shown(error.object[error.start])}, half of a surrogate pair, which "
            "is no character"
        ) from error
