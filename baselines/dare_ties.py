"""DARE with TIES: drop at random, rescale, elect sign, disjoint mean.

Yu et al., 2024, https://arxiv.org/abs/2311.03099, with the election and the mean
of TIES, https://arxiv.org/abs/2306.01708. The random drop takes the place of TIES' trim by
magnitude: no second trim follows (as in PEFT and mergekit; MergeLM's code trims again).
"""

from collections.abc import Sequence

from torch import Tensor

from baselines.dare import drop
from baselines.ties import add_disjoint_mean
from seme.checks import check_finite, check_share
from seme.interface import Site, checked_by, takes


def check(*, density: float, lam: float) -> None:
    """Demand a share and a finite number."""
    check_share("density", density)
    check_finite("lam", lam)


@takes(order_matters=True)
@checked_by(check)
def merge(
    pivot: Tensor, sources: Sequence[Tensor], site: Site, /, *, density: float, lam: float
) -> Tensor:
    """Add the sign-consistent mean of the sparsified task vectors to the pivot.

    Sign election is unweighted and counts the survivors only; zeros elect nothing.
    The divisor is the number of survivors that carry the elected sign.

    Args:
        pivot: Pre-trained float32 weights, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``.
        site: Seeds the drop, see :func:`baselines.dare.drop`.
        density: Probability that an element survives, in (0, 1].
        lam: Scale of the merged task vector.

    Returns:
        float32 weights of the pivot's shape.
    """
    survivors = drop(pivot, sources, site, density)
    rescaled = lam / density
    return add_disjoint_mean(pivot, sources, survivors, lam=rescaled)
