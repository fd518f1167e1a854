"""Task vectors of a block: the arithmetic that every element-wise merge shares.

A task vector is ``source - pivot``. Float64 represents the difference of two float32 numbers of
similar size exactly, so that one source added back at full weight is that source, and the order
of sources does not show after the one rounding to float32 at the end.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_NEGATIVE_ZERO = -(1 << 31)
"""The bits of float32's -0.0, read as int32: the smallest of all."""


def task_vectors(pivot: Tensor, sources: Sequence[Tensor]) -> list[Tensor]:
    """Subtract the pivot from every source.

    Args:
        pivot: float32 weights, any shape. Never written to.
        sources: float32 weights of the pivot's shape. Never written to.

    Returns:
        float64 of that shape, the caller's to overwrite.
    """
    start = pivot.double()
    return [source.double().sub_(start) for source in sources]


def agreement(tv: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Elect a sign per element, and find the values that carry it.

    This is TIES' sign election and Select-Compute-Erase's erasure: the sign is that of the
    unweighted sum, a zero elects and carries nothing, and a zero sum elects nobody.

    Args:
        tv: Task vectors, float64, all of one shape; overwritten.

    Returns:
        The elected signs -1, 0 or 1, and the magnitudes of the values that carry them, zero
        for the others, in the task vectors' memory.
    """
    elected = total(tv).sign_()
    return elected, [values.mul_(elected).clamp_(min=0) for values in tv]


def total(tensors: Sequence[Tensor]) -> Tensor:
    """Add tensors of one shape, at least one, from first to last; into memory of its own."""
    if len(tensors) == 1:
        return tensors[0].clone()
    added = tensors[0] + tensors[1]
    for tensor in tensors[2:]:
        added += tensor
    return added


def add_to_pivot(pivot: Tensor, change: Tensor) -> Tensor:
    """Add a change to the pivot; where it is zero the pivot's bits stay, the sign of 0 too.

    Args:
        pivot: float32 weights, any shape. Never written to.
        change: float64 of that shape; may be overwritten.

    Returns:
        float32 of that shape, rounded once.
    """
    zeros = pivot.view(torch.int32) == _NEGATIVE_ZERO if _has_negative_zero(pivot) else None
    if zeros is not None:
        zeros &= change == 0
    merged = change.add_(pivot.double()).float()
    return merged if zeros is None else merged.masked_fill_(zeros, -0.0)


def _has_negative_zero(values: Tensor) -> bool:
    return values.numel() > 0 and bool(values.view(torch.int32).min() == _NEGATIVE_ZERO)
