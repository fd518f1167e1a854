"""Settings of mergekit's parameters: filters by name, gradients, levels of precedence."""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]
"""One value, or a gradient."""
_KEYS = {"filter", "value"}


@dataclass(frozen=True, slots=True)
class Condition:
    """A value for the tensors whose name contains a text."""

    filter: str | None
    """None for all tensors."""
    value: Value

    def holds(self, name: str) -> bool:
        """Return True for a tensor that the value is for."""
        return self.filter is None or self.filter in name

    @property
    def pattern(self) -> str:
        """The filter as a glob pattern."""
        return "*" if self.filter is None else f"*{glob.escape(self.filter)}*"


def conditions_of(setting: object) -> tuple[Condition, ...]:
    """Read a setting: a value, a gradient, or a list of ``{filter: TEXT, value: ...}``.

    Returns:
        The conditions, of which the first that holds counts.

    Raises:
        ValueError: If it is none of these.
    """
    entries = setting if isinstance(setting, list) else [setting]
    if any(isinstance(entry, dict) for entry in entries):
        return tuple(_condition(entry) for entry in entries)
    return (Condition(None, _value(setting)),)


def _condition(entry: object) -> Condition:
    if not isinstance(entry, dict) or "value" not in entry:
        raise ValueError(
            f"a list of conditions has entries {{filter, value}}, got {entry!r:.60}"
        )
    if unknown := entry.keys() - _KEYS:
        listed = ", ".join(sorted(map(str, unknown)))
        raise ValueError(f"a condition has filter and value, not {listed:.60}")
    name = entry.get("filter")
    if name is not None and not isinstance(name, str):
        raise ValueError(f"filter must be a text, got {name!r:.60}")
    return Condition(None if name in (None, "", "*") else name, _value(entry["value"]))


def _value(value: object) -> Value:
    if isinstance(value, list) and value and all(isinstance(v, Scalar) for v in value):
        return tuple(value)
    if isinstance(value, Scalar):
        return value
    raise ValueError(f"must be a value, a list of values or of conditions, got {value!r:.60}")


def in_order(levels: Sequence[Sequence[Condition]]) -> tuple[Condition, ...]:
    """Write out the levels of a setting as conditions of which the last that holds counts.

    Args:
        levels: From the highest precedence to the lowest.

    Returns:
        Without those that a later one for all tensors overrides.
    """
    conditions: list[Condition] = []
    for level in reversed(levels):
        for condition in reversed(level):
            conditions = [] if condition.filter is None else conditions
            conditions.append(condition)
    return tuple(conditions)


def as_number(value: Scalar) -> float:
    """Return a value as a number; YAML reads ``1e-5`` as a text.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool):
        raise ValueError(f"must be a number, got {value}")
    try:
        number = float(value)
    except (ValueError, OverflowError):  # a text, or an integer of hundreds of digits
        raise ValueError(f"must be a number, got {value!r:.60}") from None
    return int(number) if isinstance(value, int) else number


def numbers_of(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """Return conditions with their values as numbers.

    Raises:
        ValueError: If one is no number.
    """
    return tuple(Condition(c.filter, _numbers(c.value)) for c in conditions)


def _numbers(value: Value) -> Value:
    return tuple(map(as_number, value)) if isinstance(value, tuple) else as_number(value)


def value_at(conditions: Sequence[Condition], name: str, depth: float) -> Any:  # noqa: ANN401
    """Return the value of a tensor: of the last condition that holds, at a depth in [0, 1].

    Args:
        conditions: Of numbers.
        name: The tensor's.
        depth: Of its layer in the slice; 0 outside of layers.

    Raises:
        ValueError: If none holds.
    """
    for condition in reversed(conditions):
        if condition.holds(name):
            if not isinstance(condition.value, tuple):
                return condition.value
            points: Any = condition.value
            return float(np.interp(depth * (len(points) - 1), range(len(points)), points))
    raise ValueError(f"there is no value for {name}: mergekit needs one without a filter")
