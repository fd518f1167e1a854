"""Weighted sums of task vectors over a block: the arithmetic of every element-wise merge.

A task vector is ``source - pivot``. Float64 represents the difference of two float32 numbers of
similar size exactly, so one source added back at full weight is that source, and the order of
sources does not matter after the one rounding to float32 at the end. On the CPU these functions
call the compiled loops of :mod:`seme.kernels`; for a GPU the same steps follow in torch.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seme.kernels import arithmetic, selection
from seme.kernels.jit import use_numba

_MIN_SHARE = 1e-6
"""Least magnitude of a mean's divisor, of the sum of the weights' magnitudes."""


class Signed(NamedTuple):
    """A sign-consistent sum, and counts of the values in it."""

    merged: Tensor
    """float32, of the pivot's shape."""
    n_values: int
    """Non-zero values among the kept elements of all task vectors."""
    n_survivors: int
    """Values with the elected sign among them."""


def differences(pivot: Tensor, sources: Sequence[Tensor]) -> Tensor:
    """Compute task vectors in float32, whose magnitudes are ranked.

    Args:
        pivot: float32 weights, (n,). Never written to.
        sources: float32 weights, (n,) each, at least one.

    Returns:
        float32, (n_sources, n).
    """
    if use_numba(pivot.device):
        return selection.differences(pivot, sources)
    return torch.stack([source - pivot for source in sources])


def weighted_mean(
    sources: Sequence[Tensor], *, weights: Sequence[float], divisor: float
) -> Tensor:
    """Compute the weighted sum of tensors over a divisor.

    Args:
        sources: float32, at least one, all of one shape. Never written to.
        weights: One per source.
        divisor: Not zero.

    Returns:
        float32 of that shape, rounded once.

    Raises:
        ValueError: If the divisor is the weights' sum, and they cancel to next to nothing.
    """
    magnitude = math.fsum(map(abs, weights))
    if divisor == math.fsum(weights) and abs(divisor) < _MIN_SHARE * magnitude:
        raise ValueError(
            f"weights of a mean must not cancel, got {list(weights)}: divided by their sum, "
            f"{divisor:g}, they would be up to {1 / _MIN_SHARE:g} and more"
        )
    if use_numba(sources[0].device):
        return arithmetic.mean(sources, weights, divisor)
    total = torch.zeros_like(sources[0], dtype=torch.float64)
    for source, weight in zip(sources, weights, strict=True):
        total += source.double() * weight
    return total.div_(divisor).float()


def add_weighted(
    pivot: Tensor,
    sources: Sequence[Tensor],
    *,
    weights: Sequence[float],
    scale: float,
    kept: Tensor | None = None,
) -> Tensor:
    """Add ``scale`` times the weighted sum of task vectors to the pivot.

    Args:
        pivot: float32 weights, any shape. Never written to.
        sources: float32 weights of the pivot's shape, at least one. Never written to.
        weights: One per source.
        scale: Of the sum.
        kept: Mask of the elements of the task vectors that count: (n_sources, *shape) or, for
            all sources alike, (1, *shape). None keeps all.

    Returns:
        float32 of that shape, rounded once. Where the change is zero the pivot's bits stay.
    """
    if use_numba(pivot.device):
        return arithmetic.add_weighted(pivot, sources, weights, scale, kept)
    change = torch.zeros_like(pivot, dtype=torch.float64)
    for values, weight in zip(task_vectors(pivot, sources, kept), weights, strict=True):
        change += values * weight
    return add_change(pivot, change * scale)


def add_signed(
    pivot: Tensor,
    sources: Sequence[Tensor],
    *,
    weights: Sequence[float],
    scale: float,
    divide: bool,
    kept: Tensor | None = None,
) -> Signed:
    """Elect a sign per element, and add the weighted sum of the values that carry it.

    This is TIES' sign election and Select-Compute-Erase's erasure: the sign is that of the
    unweighted sum, a zero elects and carries nothing, and a zero sum elects nobody.

    Args:
        pivot: float32 weights, any shape. Never written to.
        sources: float32 weights of the pivot's shape, at least one. Never written to.
        weights: One per source, not negative.
        scale: Of the sum.
        divide: Divide the sum by the weights of the values in it.
        kept: As in :func:`add_weighted`.

    Returns:
        The merged weights, rounded once, the pivot's bits where the change is zero; and counts.
    """
    if use_numba(pivot.device):
        return Signed(*arithmetic.add_signed(pivot, sources, weights, scale, kept, divide))
    tv = task_vectors(pivot, sources, kept)
    total = torch.zeros_like(tv[0])
    for values in tv:
        total += values
    sign = total.sign()
    change, share = torch.zeros_like(sign), torch.zeros_like(sign)
    n_survivors = 0
    for values, weight in zip(tv, weights, strict=True):
        size = (values * sign).clamp_(min=0)
        change += size * weight
        share += (size > 0).double() * weight
        n_survivors += int(torch.count_nonzero(size))
    if divide:
        change = torch.where(share > 0, change / share, 0.0)
    n_values = sum(int(torch.count_nonzero(values)) for values in tv)
    return Signed(add_change(pivot, change * sign * scale), n_values, n_survivors)


def task_vectors(
    pivot: Tensor, sources: Sequence[Tensor], kept: Tensor | None = None
) -> list[Tensor]:
    """Compute task vectors in float64, zero where they are not kept.

    Args:
        pivot: float32 weights, any shape. Never written to.
        sources: float32 weights of the pivot's shape. Never written to.
        kept: As in :func:`add_weighted`.

    Returns:
        One tensor of the pivot's shape per source.
    """
    tv = [source.double() - pivot.double() for source in sources]
    if kept is None:
        return tv
    return [
        torch.where(flags, values, 0.0)
        for values, flags in zip(tv, kept.expand(len(tv), *pivot.shape), strict=True)
    ]


def add_change(pivot: Tensor, change: Tensor) -> Tensor:
    """Add a float64 change to the pivot and round once; where it is 0 the pivot's bits stay."""
    return torch.where(change == 0, pivot, (pivot.double() + change).float())
