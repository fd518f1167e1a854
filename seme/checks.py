"""Range checks of hyper-parameters, in one wording for all methods."""

import math
from collections.abc import Iterable
from typing import TypeGuard


def check_share(name: str, value: object) -> None:
    """Demand a share kept, a number in (0, 1].

    Raises:
        ValueError: If ``value`` is anything else, a string or NaN included.
    """
    if not _is_number(value) or not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {value!r}")


def check_finite(name: str, value: object) -> None:
    """Demand a finite number of any sign.

    Raises:
        ValueError: If ``value`` is infinite, NaN or not a number.
    """
    if not _is_number(value) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Demand one of the named readings of a step.

    Raises:
        ValueError: If ``value`` is none of them; the message lists them sorted.
    """
    if value not in (known := sorted(choices)):
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
