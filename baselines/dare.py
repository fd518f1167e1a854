"""DARE: drop elements of the task vectors at random, rescale the others, add them.

Yu et al., 2024, https://arxiv.org/abs/2311.03099; the task vectors are added by task arithmetic,
https://arxiv.org/abs/2212.04089.
"""

from collections.abc import Sequence

from torch import Tensor

from baselines.coefficients import check_weights, weights_or_ones
from seme.checks import check_finite, check_share
from seme.elementwise import add_weighted
from seme.interface import Site, checked_by, takes


def check(
    *, density: float, lam: float, weights: Sequence[float] | None, n_sources: int
) -> None:
    """Demand a share, a finite number, and one finite number per source or None."""
    check_share("density", density)
    check_finite("lam", lam)
    check_weights(weights, n_sources)


@takes(order_matters=True)
@checked_by(check)
def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    site: Site,
    /,
    *,
    density: float,
    lam: float,
    weights: Sequence[float] | None,
) -> Tensor:
    """Add ``lam`` times the weighted sum of the sparsified task vectors to the pivot.

    Survivors are multiplied by ``1 / density`` as in the paper (mergekit restores the L1 norm
    of each task vector instead). A sum, not a mean; nothing is divided by the weights.

    Args:
        pivot: Pre-trained float32 weights, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``.
        site: Seeds the drop, see :func:`drop`.
        density: Probability that an element survives, in (0, 1]; the paper's p is
            ``1 - density``.
        lam: Scale of the summed task vectors (task arithmetic's lambda).
        weights: One finite number per source, after the rescaling; None is 1 for all.

    Returns:
        float32 weights of the pivot's shape.
    """
    survivors = drop(pivot, sources, site, density)
    rescaled = lam / density
    coefficients = weights_or_ones(weights, len(sources))
    return add_weighted(pivot, sources, weights=coefficients, scale=rescaled, kept=survivors)


def drop(pivot: Tensor, sources: Sequence[Tensor], site: Site, density: float) -> Tensor:
    """Draw which elements of each task vector survive, with probability ``density``.

    Seeded by run seed, tensor name and source index: the order of the sources matters, the
    order of the tensors does not.

    Returns:
        Booleans, (n_sources, *shape).
    """
    return site.bernoulli_mask(len(sources), pivot.shape, density).to(pivot.device)
