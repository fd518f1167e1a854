"""Weight averaging, as in model soups: the mean of the sources' weights.

Wortsman et al., 2022, https://arxiv.org/abs/2203.05482.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from baselines.coefficients import check_mean_weights, weights_or_ones
from seme.elementwise import weighted_mean
from seme.interface import Site, checked_by


def check(*, weights: Sequence[float] | None, n_sources: int) -> None:
    """Demand one finite number per source whose sum is not zero, or None."""
    check_mean_weights(weights, n_sources)


@checked_by(check)
def merge(
    _pivot: Tensor,
    sources: Sequence[Tensor],
    _site: Site,
    /,
    *,
    weights: Sequence[float] | None,
) -> Tensor:
    """Average the sources; the pivot gives the shape and nothing else.

    The sum runs in float64 and is rounded once, so that the average of equal sources is that
    source to the last bit, whatever the weights.

    Args:
        _pivot: float32 weights, any shape; not part of the average.
        sources: float32 weights, each of the pivot's shape. Never written to.
        weights: One finite number per source, divided by their sum (the paper's are equal);
            None weighs all alike.

    Returns:
        float32 weights of the pivot's shape.
    """
    coefficients = weights_or_ones(weights, len(sources))
    return weighted_mean(sources, weights=coefficients, divisor=math.fsum(coefficients))
