"""DARE: drop elements of the task vectors at random, rescale the others, then add them.

Yu et al., 2024, https://arxiv.org/abs/2311.03099, with task arithmetic behind it.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from baselines.task_vector import checked_weights, weighted_sum
from seme.blockwise import add_to_pivot
from seme.checks import check_finite, check_share
from seme.types import Site


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
    drop = drop_and_rescale(pivot, len(sources), site, density=density)
    return add_to_pivot(
        pivot, sources, lambda tv, place: lam * weighted_sum(drop(tv, place), checked)
    )


def drop_and_rescale(
    pivot: Tensor, n_sources: int, site: Site, *, density: float
) -> Callable[[Tensor, slice], Tensor]:
    """Draw which elements survive, and return the step that applies it to a block.

    Args:
        pivot: Gives shape and device.
        n_sources: Number of sources; each has a draw of its own.
        site: Where the draws are seeded.
        density: Probability that an element survives, in (0, 1].

    Returns:
        A function of task vectors (n_sources, n_block), overwritten in place, and their place
        in the flat tensor; dropped values are zero and the others divided by ``density``.
    """
    survives = [
        (site.uniform(index, pivot.shape) < density).view(-1).to(pivot.device)
        for index in range(n_sources)
    ]

    def drop(tv: Tensor, place: slice) -> Tensor:
        for row, mask in zip(tv, survives, strict=True):
            row.mul_(mask[place])
        return tv.div_(density)

    return drop
