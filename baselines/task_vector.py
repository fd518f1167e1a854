"""Steps the baselines share: weights, the weighted sum and the disjoint mean of task vectors."""

import math
from collections.abc import Sequence

from torch import Tensor

from seme.checks import check_finite
from seme.elementwise import agreement, total


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


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Add float64 tensors of one shape, each times its weight, from first to last.

    Args:
        tensors: At least one; the first is overwritten and returned.
        weights: One per tensor.
    """
    first, *others = tensors
    if weights[0] != 1:
        first.mul_(weights[0])
    for tensor, weight in zip(others, weights[1:], strict=True):
        first.add_(tensor, alpha=weight)
    return first


def disjoint_mean(tv: Sequence[Tensor]) -> Tensor:
    """Average, per element, the values that carry the elected sign (TIES, steps 2 and 3).

    The elected sign is that of the unweighted sum; the divisor is the count of the values
    that carry it. Zeros elect nothing and are not counted; a zero sum gives zero.

    Args:
        tv: Sparsified task vectors, float64, all of one shape; overwritten.
    """
    elected, survivors = agreement(tv)
    agreeing = total(survivors)
    count = total([values.sign_() for values in survivors]).clamp_(min=1)
    return agreeing.div_(count).mul_(elected)
