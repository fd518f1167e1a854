"""Task vectors in cache-sized blocks: the arithmetic every element-wise merge shares.

A task vector is ``source - pivot``. Blocks keep the temporaries in cache (faster than
whole-tensor passes, and without copies the size of a tensor) and make float64 affordable.
Float64 represents the difference of two float32 numbers of similar size exactly, so that one
source added back at full weight is that source, and the order of sources does not show after
the one rounding to float32 at the end.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_CPU_BLOCK = 1 << 15
"""Numbers per block, over all sources. A few such blocks fit a core's cache, and torch runs
operations up to this size on one thread: no thread count shows in the result, and no
operation waits for a second core that is busy elsewhere (ours, measured)."""
_GPU_BLOCK = 1 << 22
"""On a GPU a block must be worth its kernel launches (ours)."""

Combine = Callable[[Tensor, slice], Tensor]
"""Takes task vectors (n_sources, n), free to overwrite, and the span of their block in the flat
tensor; returns the change of the pivot for each, (n,)."""


class Block(NamedTuple):
    """The task vectors of consecutive elements, or of those chosen among them."""

    span: slice
    """Range of the block in the flat tensor."""
    where: slice | Tensor
    """Flat positions of the columns of ``tv``: the whole span, or the chosen in it."""
    tv: Tensor
    """Task vectors in float64, (n_sources, n), the caller's to overwrite."""


def blocks(tensor: Tensor, n_rows: int) -> Iterator[slice]:
    """Cut the flat index range of a tensor into blocks, for ``n_rows`` numbers per element."""
    numbers = _CPU_BLOCK if tensor.device.type == "cpu" else _GPU_BLOCK
    size = max(numbers // n_rows, 1)
    for start in range(0, tensor.numel(), size):
        yield slice(start, min(start + size, tensor.numel()))


def task_vector_blocks(
    pivot: Tensor, sources: Sequence[Tensor], chosen: Tensor | None = None
) -> Iterator[Block]:
    """Yield the task vectors block by block, in order.

    Args:
        pivot: float32 weights, any shape. Never written to.
        sources: float32 weights of the pivot's shape. Never written to.
        chosen: Booleans of that shape: yield only these elements; None yields all.

    Yields:
        Blocks that together hold every chosen element once.
    """
    start = pivot.reshape(-1)
    ends = [source.reshape(-1) for source in sources]
    marks = None if chosen is None else chosen.reshape(-1)
    for span in blocks(pivot, len(sources)):
        where: slice | Tensor = span
        if marks is not None:
            where = marks[span].nonzero().view(-1) + span.start
        tv = torch.stack([end[where] for end in ends]).double().sub_(start[where])
        yield Block(span, where, tv)


def agreeing(tv: Tensor) -> tuple[Tensor, Tensor]:
    """Elect a sign per element and keep the values that carry it.

    This is TIES' sign election and Select-Compute-Erase's erasure: the sign is that of the
    unweighted sum, a zero elects and carries nothing, and a zero sum elects nobody.

    Args:
        tv: Task vectors, (n_sources, n); overwritten.

    Returns:
        The elected signs -1, 0 or 1, (n,), and the magnitudes of the values that carry them,
        zero for the others, (n_sources, n).
    """
    elected = tv.sum(dim=0).sign_()
    return elected, tv.mul_(elected).clamp_(min=0)


def add_to_pivot(
    pivot: Tensor, sources: Sequence[Tensor], combine: Combine, chosen: Tensor | None = None
) -> Tensor:
    """Add to the pivot what ``combine`` makes of the task vectors.

    Where the change is zero the pivot's bits stay, the sign of a zero included.

    Args:
        pivot: float32 weights, any shape. Never written to.
        sources: float32 weights of the pivot's shape. Never written to.
        combine: Called once per block, in order.
        chosen: Booleans of that shape: only these elements change; None changes all.

    Returns:
        float32 weights of the pivot's shape, rounded once from float64.
    """
    start = pivot.reshape(-1)
    merged = torch.empty_like(start) if chosen is None else start.clone()
    for span, where, tv in task_vector_blocks(pivot, sources, chosen):
        change = combine(tv, span)
        merged[where] = torch.where(change == 0, start[where], start[where] + change).float()
    return merged.view(pivot.shape)
