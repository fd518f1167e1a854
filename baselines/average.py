"""Weight averaging, as in model soups.

Wortsman et al., 2022, https://arxiv.org/abs/2203.05482: the mean of the sources' weights.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from baselines.coefficients import checked_mean_weights
from seme.elementwise import weighted_mean
from seme.interface import Site


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
        weights: One finite number per source, divided by their sum (ours; the paper's are
            equal); None weighs all alike.

    Returns:
        float32 weights of the pivot's shape.

    Raises:
        ValueError: If the weights are not one finite number per source or sum to zero.
    """
    checked = checked_mean_weights(weights, len(sources))
    return weighted_mean(sources, weights=checked, divisor=math.fsum(checked))
