"""Task arithmetic: add the scaled sum of the task vectors to the pre-trained model.

Ilharco et al., 2023, https://arxiv.org/abs/2212.04089, section 2.
"""

from collections.abc import Sequence

from torch import Tensor

from baselines.coefficients import check_weights, weights_or_ones
from seme.checks import check_finite
from seme.elementwise import add_weighted
from seme.interface import Site, checked_by


def check(*, lam: float, weights: Sequence[float] | None, n_sources: int) -> None:
    """Demand a finite ``lam``, and one finite number per source or None."""
    check_finite("lam", lam)
    check_weights(weights, n_sources)


@checked_by(check)
def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    _site: Site,
    /,
    *,
    lam: float,
    weights: Sequence[float] | None,
) -> Tensor:
    """Add ``lam`` times the weighted sum of the task vectors to the pivot.

    A sum, not a mean: nothing is divided by the number of sources or by the weights (mergekit
    divides when ``normalize`` is set). Nothing is trimmed.

    Args:
        pivot: Pre-trained float32 weights, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``.
        lam: Scale of the summed task vectors (the paper's lambda); negative values negate.
        weights: One finite number per source (the paper's are 1); None is 1 for all.

    Returns:
        float32 weights of the pivot's shape.
    """
    coefficients = weights_or_ones(weights, len(sources))
    return add_weighted(pivot, sources, weights=coefficients, scale=lam)
