"""The file of a mergekit configuration: YAML read within bounds, and the list of its mistakes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from seme.checkpoint.regular_file import read_whole
from seme.yaml_events import check_growth

MOST_PROBLEMS = 20
"""Mistakes that an error names."""
_MOST_BYTES = 100_000
"""Several times the largest published."""
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DAMAGED = (
    ValueError, OverflowError, TypeError, LookupError, AttributeError, yaml.YAMLError,
    RecursionError,
)  # fmt: skip
"""What decoding, or PyYAML building a date or a number, raises."""


def load_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping.

    Raises:
        ValueError: If there is none, it is too large, too deep, grows by its aliases, or cannot
            be read.
    """
    if not path.is_file():
        raise ValueError("must be a YAML file, there is none")
    content = read_whole(path, most=_MOST_BYTES)
    try:
        text = content.decode()
        check_growth(text)
        mapping = yaml.load(text, _Loader)
    except _DAMAGED as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot be read as YAML: {reason:.300}") from error
    if not isinstance(mapping, dict):
        raise ValueError(f"must be a mapping with merge_method and models, got {mapping!r:.60}")
    return mapping


def refuse(problems: Sequence[str]) -> None:
    """Refuse a configuration that something is wrong with.

    Raises:
        ValueError: If there are problems; has the first of them, one line each.
    """
    if problems:
        more = len(problems) - MOST_PROBLEMS
        rest = [f"and {more} more"] if more > 0 else []
        raise ValueError("\n".join([*problems[:MOST_PROBLEMS], *rest]))
