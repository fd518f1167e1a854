"""Weight averaging, as in model soups.

Wortsman et al., 2022, https://arxiv.org/abs/2203.05482: the mean of the sources' weights.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.task_vector import checked_mean_weights
from seme.blockwise import blocks
from seme.types import Site


def merge(
    pivot: Tensor,
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
        pivot: float32 weights, any shape; not part of the average.
        sources: float32 weights, each shaped like ``pivot``. Never written to.
        weights: One finite number per source, divided by their sum (ours; the paper's are
            equal); None weighs all alike.

    Returns:
        float32 weights of the pivot's shape.

    Raises:
        ValueError: If the weights are not one finite number per source or sum to zero.
    """
    checked = checked_mean_weights(weights, len(sources))
    divisor = math.fsum(checked)
    flat = [source.reshape(-1) for source in sources]
    merged = torch.empty_like(flat[0])
    for place in blocks(pivot, 1):
        total = flat[0][place].double().mul_(checked[0])
        for source, weight in zip(flat[1:], checked[1:], strict=True):
            total.add_(source[place].double(), alpha=weight)
        merged[place] = total.div_(divisor)
    return merged.view(pivot.shape)
