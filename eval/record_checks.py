"""Checks of a record's open mappings: the entries of them that tables and pages compute with."""

import math
from collections.abc import Mapping
from typing import Any

_LONGEST_STAGE = 1e9
"""Most seconds of a stage, thirty years: sums and axes of figures stay finite."""


def check_suite_entries(more: Mapping[str, Any]) -> None:
    """Check what a record's suite says beyond its name: groups, tasks, precision.

    Args:
        more: ``SuiteRef.more``.

    Raises:
        ValueError: If an entry that is read has another type; names it.
    """
    for key in ("groups", "tasks"):
        _objects(f"suite.{key}", more.get(key, {}))
    for key in ("dtype", "lm_eval"):
        _text_or_null(f"suite.{key}", more.get(key))
    for task, entries in more.get("tasks", {}).items():
        for key in ("metric", "filter", "score"):
            _text_or_null(f"suite.tasks.{task}.{key}", entries.get(key))
    _check_groups(more.get("groups", {}))


def _check_groups(groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Check shares of tasks in groups; a task is in one group at most."""
    for group, shares in groups.items():
        for task, share in shares.items():
            if type(share) not in (int, float) or not 0 < share <= 1:
                raise ValueError(
                    f"suite.groups.{group}.{task} must be a share in (0, 1], got {share!r:.60}"
                )
    tasks = [task for shares in groups.values() for task in shares]
    if twice := sorted({task for task in tasks if tasks.count(task) > 1}):
        raise ValueError(f"suite.groups must have every task once, got {twice} in several")


def check_provenance(provenance: Mapping[str, Any]) -> None:
    """Check that a record's ``provenance.identity``, where it is stated, is an object.

    Raises:
        ValueError: If it is anything else.
    """
    _object("provenance.identity", provenance.get("identity", {}))


def check_origin(origin: Mapping[str, Any]) -> None:
    """Check that the command and the folder of a run are texts, where they are stated.

    Raises:
        ValueError: If one is anything else.
    """
    for key in ("command", "merged_dir"):
        _text_or_null(f"origin.{key}", origin.get(key))


def check_cost(seconds: float, sizes: Mapping[str, int | None]) -> None:
    """Check the time of a stage in seconds and its sizes in bytes.

    Raises:
        ValueError: If one is negative, or the time is no time.
    """
    if not 0 <= seconds <= _LONGEST_STAGE:
        raise ValueError(
            f"seconds must be in [0, {_LONGEST_STAGE:g}] and finite, got {seconds:g}"
        )
    if negative := {key: size for key, size in sizes.items() if size is not None and size < 0}:
        raise ValueError(f"bytes must not be negative, got {negative}")


def check_metric(value: float | None, stderr: float | None) -> None:
    """Check a metric outside the mean, and its standard error.

    Raises:
        ValueError: If one is there and not finite, or the error is negative.
    """
    if not all(number is None or math.isfinite(number) for number in (value, stderr)):
        raise ValueError(f"a metric and its error must be finite, got {value} and {stderr}")
    if stderr is not None and stderr < 0:
        raise ValueError(f"a standard error must not be negative, got {stderr}")


def _objects(path: str, value: Any) -> None:  # noqa: ANN401 (any JSON)
    _object(path, value)
    for key, entry in value.items():
        _object(f"{path}.{key}", entry)


def _object(path: str, value: Any) -> None:  # noqa: ANN401 (any JSON)
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} must be an object, got {value!r:.60}")


def _text_or_null(path: str, value: Any) -> None:  # noqa: ANN401 (any JSON)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{path} must be a text or null, got {value!r:.60}")
