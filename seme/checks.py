"""Range checks of hyper-parameters, in one wording for all methods."""

import difflib
import sys
from collections.abc import Iterable
from typing import TypeGuard

_MOST = 1e300
"""Largest magnitude of a number: sums of as many as there are sources are finite."""


def check_share(name: str, value: object) -> None:
    """Demand a share kept, a number in (0, 1].

    Raises:
        ValueError: If ``value`` is anything else, a string or NaN included.
    """
    if not _is_number(value) or not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {value!r}")


def check_between(name: str, value: object, low: float, high: float) -> None:
    """Demand a number in [low, high].

    Raises:
        ValueError: If ``value`` is anything else, a string or NaN included.
    """
    if not _is_number(value) or not low <= value <= high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}], got {value!r}")


def check_finite(name: str, value: object, *, least: float | None = None) -> None:
    """Demand a finite number.

    Args:
        name: Of the parameter.
        value: Its value.
        least: The smallest that is allowed; None for any.

    Raises:
        ValueError: If ``value`` is smaller, infinite, NaN or not a number, or so large that a
            sum of such numbers could be infinite.
    """
    is_finite = _is_number(value) and abs(value) <= _MOST
    if not is_finite or (least is not None and value < least):  # type: ignore[operator]
        bound = "" if least is None else f" of at least {least:g}"
        if _is_number(value) and _MOST < abs(value) <= sys.float_info.max:
            bound = f" of at most {_MOST:g} in magnitude"
        raise ValueError(f"{name} must be a finite number{bound}, got {value!r}")


def check_whole(name: str, value: object, *, least: int) -> None:
    """Demand a whole number of at least ``least``.

    Raises:
        ValueError: If ``value`` is anything else, a boolean included.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_switch(name: str, value: object) -> None:
    """Demand true or false.

    Raises:
        ValueError: If ``value`` is anything else, 0 and 1 included.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Demand one of the named readings of a step.

    Raises:
        ValueError: If ``value`` is none of them; the message lists them sorted.
    """
    if value not in (known := sorted(choices)):
        raise ValueError(
            f"{name} must be one of {', '.join(known)}, got {value!r}"
            f"{did_you_mean([str(value)], known)}"
        )


def did_you_mean(names: Iterable[str], known: Iterable[str]) -> str:
    """Return the end of an error, ``; did you mean model?``; empty if no name is like another."""
    choices = sorted(known)
    near = [close for n in names for close in difflib.get_close_matches(n, choices, n=1)]
    return f"; did you mean {', '.join(near)}?" if near else ""


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
