"""CABS: the largest elements of every group, no element kept for two sources.

Yang et al., 2025, https://arxiv.org/abs/2503.01874, section 4: balanced sparsification keeps n
of every m elements; conflict-aware sparsification goes through the sources in order, each one
choosing among the elements that those before it left.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.coefficients import check_weights, weights_or_ones
from baselines.row_keys import among_largest
from seme.checks import check_finite, check_share, check_whole
from seme.elementwise import add_weighted, differences
from seme.interface import Site, checked_by, takes, whole_rows

_RUN = 1 << 17
"""Elements, in whole groups, that are ranked at one time."""


def check(
    *, density: float, group: int, lam: float, weights: Sequence[float] | None, n_sources: int
) -> None:
    """Demand a share that keeps an element of a group, a size, and finite numbers."""
    check_share("density", density)
    check_whole("group", group, least=1)
    check_finite("lam", lam)
    check_weights(weights, n_sources)
    if round(density * group) == 0:
        raise ValueError(
            f"density must be larger, so that one of {group} elements is kept, got {density!r}"
        )


def group_length(_shape: Sequence[int], /, *, group: int) -> int:
    """Return the elements that are ranked together."""
    return group


@whole_rows(group_length, per_source=4)
@takes(order_matters=True)
@checked_by(check)
def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    _site: Site,
    /,
    *,
    density: float,
    group: int,
    lam: float,
    weights: Sequence[float] | None,
) -> Tensor:
    """Add ``lam`` times the weighted sum of the disjoint sparse task vectors to the pivot.

    No rescaling, no sign election: no two sources meet.

    Args:
        pivot: Pre-trained float32 weights of whole groups, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``; the first chooses
            first.
        density: Share of each group that a source keeps, in (0, 1]; the paper's n is
            ``round(density * group)``. Later sources keep less where nothing is left.
        group: Consecutive elements of the flattened tensor that are ranked together, at least 1
            (the paper's m); the last group may be smaller and keeps its share.
        lam: Scale of the sum.
        weights: One finite number per source (the paper's lambdas); None is 1 for all.

    Returns:
        float32 weights of the pivot's shape.
    """
    scales = weights_or_ones(weights, len(sources))
    flat = [tensor.reshape(-1) for tensor in (pivot, *sources)]
    n = max(_RUN // group, 1) * group
    merged = torch.empty_like(flat[0])
    for start in range(0, merged.numel(), n):
        piece = slice(start, start + n)
        base, *others = (tensor[piece] for tensor in flat)
        kept = choose(differences(base, others).abs(), density, group)
        merged[piece] = add_weighted(base, others, weights=scales, scale=lam, kept=kept)
    return merged.view(pivot.shape)


def choose(magnitudes: Tensor, density: float, group: int) -> Tensor:
    """Choose each source's largest elements of every group that are not chosen yet.

    Args:
        magnitudes: Of the task vectors, (n_sources, n).
        density: See :func:`merge`; likewise ``group``.
        group: Elements that are ranked together.

    Returns:
        Booleans of that shape, at most one true per element; never for a zero, and equal
        magnitudes by index.
    """
    kept = torch.zeros_like(magnitudes, dtype=torch.bool)
    whole = magnitudes.shape[1] // group * group
    for part, size in (
        (slice(0, whole), group),
        (slice(whole, None), magnitudes.shape[1] - whole),
    ):
        n_kept = round(density * size)
        if n_kept and magnitudes[:, part].numel():
            _choose_in_groups(magnitudes[:, part], kept[:, part], size, n_kept)
    return kept


def _choose_in_groups(magnitudes: Tensor, kept: Tensor, size: int, n_kept: int) -> None:
    """Set the flags of the elements that are chosen, group by group of one size."""
    free = torch.ones_like(kept[0])
    for values, flags in zip(magnitudes, kept, strict=True):
        left = torch.where(free, values, 0.0)
        largest = torch.from_numpy(among_largest(left.view(-1, size), n_kept))
        flags |= largest.view(-1).to(left.device) & (left > 0)
        free &= ~flags
