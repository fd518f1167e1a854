"""Weights of sources, and of their task vectors: one finite number per source."""

import math
from collections.abc import Sequence

from seme.checks import check_finite

_ROUNDING = 2.0**-40
"""Largest sum of weights that counts as zero, as a share of the sum of their absolute values."""


def check_weights(weights: object, n_sources: int) -> None:
    """Demand one finite number per source, in configuration order, or None.

    Raises:
        ValueError: If there are more or fewer weights than sources, or one is not finite.
    """
    if weights is None:
        return
    if not isinstance(weights, Sequence) or isinstance(weights, str):
        raise ValueError(f"weights must be a list of numbers or null, got {weights!r}")
    if len(weights) != n_sources:
        raise ValueError(
            f"weights must hold one number per source: expected {n_sources}, "
            f"got {len(weights)}: {list(weights)}"
        )
    for index, weight in enumerate(weights):
        check_finite(f"weights[{index}]", weight)


def check_mean_weights(weights: object, n_sources: int) -> None:
    """Demand weights that a mean can divide by their sum.

    Raises:
        ValueError: As :func:`check_weights`, and if the weights sum to zero, but for their
            rounding: 0.1, 0.2 and -0.3 do.
    """
    check_weights(weights, n_sources)
    numbers = weights_or_ones(weights, n_sources)  # type: ignore[arg-type]
    if abs(math.fsum(numbers)) <= _ROUNDING * math.fsum(map(abs, numbers)):
        raise ValueError(f"weights of a mean must not sum to zero, got {weights}")


def weights_or_ones(weights: Sequence[float] | None, n_sources: int) -> list[float]:
    """Return the weight of every source: 1 where none are given."""
    return [1.0] * n_sources if weights is None else [float(weight) for weight in weights]
