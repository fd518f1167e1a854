"""Checks of the entries that trackers have in common."""

from collections.abc import Mapping, Set
from typing import Any


def check_keys(name: str, entries: object, keys: Set[str]) -> Mapping[str, Any]:
    """Return the entries of a tracker.

    Raises:
        ValueError: If they are no mapping, or a key is unknown or missing.
    """
    if not isinstance(entries, Mapping) or entries.keys() != keys:
        given = dict(entries) if isinstance(entries, Mapping) else entries
        raise ValueError(f"tracker.{name} has the keys {sorted(keys)}, got {given!r:.300}")
    return entries


def check_tags(name: str, tags: object) -> None:
    """Check the words that a tracker adds to each of its runs.

    Raises:
        ValueError: If they are no list of texts.
    """
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"tracker.{name}.tags must be a list of texts, got {tags!r:.300}")


def check_one_line(entry: str, text: object) -> None:
    """Check a name.

    Args:
        entry: Where it stands in the configuration.
        text: Its value.

    Raises:
        ValueError: If it is no text of one line, or is empty.
    """
    if not isinstance(text, str) or not text.strip() or not text.isprintable():
        raise ValueError(f"{entry} must be a text of one line, got {text!r:.300}")
