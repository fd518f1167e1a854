"""DARE with TIES behind it: drop at random, rescale, elect sign, disjoint mean.

Yu et al., 2024, https://arxiv.org/abs/2311.03099, with the election and the mean
of TIES, https://arxiv.org/abs/2306.01708. The random drop takes the place of TIES' trim by
magnitude: no second trim follows (as in PEFT and mergekit; MergeLM's code trims again).
"""

from collections.abc import Sequence

from torch import Tensor

from seme.checks import check_finite, check_share
from seme.elementwise import add_signed
from seme.interface import Site


def merge(
    pivot: Tensor, sources: Sequence[Tensor], site: Site, /, *, density: float, lam: float
) -> Tensor:
    """Add the sign-consistent mean of the sparsified task vectors to the pivot.

    Sign election is unweighted and counts the survivors only; zeros elect nothing.
    The divisor is the number of survivors that carry the elected sign.

    Args:
        pivot: Pre-trained float32 weights, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``.
        site: Seeds the drop, as in :func:`baselines.dare.merge`.
        density: Probability that an element survives, in (0, 1].
        lam: Scale of the merged task vector.

    Returns:
        float32 weights of the pivot's shape.

    Raises:
        ValueError: If ``density`` is outside (0, 1] or ``lam`` is not finite.
    """
    check_share("density", density)
    check_finite("lam", lam)
    return add_signed(
        pivot,
        sources,
        weights=[1.0] * len(sources),
        scale=lam / density,
        divide=True,
        kept=site.bernoulli_mask(len(sources), pivot.shape, density).to(pivot.device),
    ).merged
