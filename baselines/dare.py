"""DARE: drop elements of the task vectors at random, rescale the others, then add them.

Yu et al., 2024, https://arxiv.org/abs/2311.03099, with task arithmetic behind it.
"""

from collections.abc import Sequence

from torch import Tensor

from baselines.coefficients import checked_weights
from seme.checks import check_finite, check_share
from seme.elementwise import add_weighted
from seme.interface import Site


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
        site: Seeds the drop by run seed, tensor name and source index: the order of the
            sources matters, the order of the tensors does not.
        density: Probability that an element survives, in (0, 1]; the paper's p is
            ``1 - density``.
        lam: Scale of the summed task vectors (task arithmetic's lambda).
        weights: One finite number per source, after the rescaling; None is 1 for all.

    Returns:
        float32 weights of the pivot's shape.

    Raises:
        ValueError: If ``density`` is outside (0, 1], ``lam`` is not finite, or the weights
            are not one number per source.
    """
    check_share("density", density)
    check_finite("lam", lam)
    checked = checked_weights(weights, len(sources))
    kept = site.bernoulli_mask(len(sources), pivot.shape, density).to(pivot.device)
    return add_weighted(pivot, sources, weights=checked, scale=lam / density, kept=kept)
