"""The weights of sources and of their task vectors, as several baselines take them."""

import math
from collections.abc import Sequence

from seme.checks import check_finite


def checked_weights(weights: Sequence[float] | None, n_sources: int) -> list[float]:
    """Give every source its weight: the number stated for it, or 1 where none are stated.

    Args:
        weights: One finite number per source in configuration order, or None.
        n_sources: Number of sources.

    Raises:
        ValueError: If there are more or fewer weights than sources, or one is not finite.
    """
    if weights is None:
        return [1.0] * n_sources
    if len(weights) != n_sources:
        raise ValueError(
            f"weights must hold one number per source: expected {n_sources}, "
            f"got {len(weights)}: {list(weights)}"
        )
    for index, weight in enumerate(weights):
        check_finite(f"weights[{index}]", weight)
    return [float(weight) for weight in weights]


def checked_mean_weights(weights: Sequence[float] | None, n_sources: int) -> list[float]:
    """Give every source its weight in a mean, not yet divided by their sum.

    Raises:
        ValueError: As :func:`checked_weights`, and if the weights sum to zero.
    """
    checked = checked_weights(weights, n_sources)
    if math.fsum(checked) == 0:
        raise ValueError(f"weights of a mean must not sum to zero, got {checked}")
    return checked
