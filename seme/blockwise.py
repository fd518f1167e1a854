"""Task vectors in cache-sized blocks: the arithmetic every element-wise merge shares.

A task vector is ``source - pivot``. Blocks keep the temporaries in cache (faster than
whole-tensor passes, and without copies the size of a tensor) and make float64 affordable.
Float64 represents the difference of two float32 numbers of similar size exactly, so that one
source added back at full weight is that source, and the order of sources does not show after
the one rounding to float32 at the end.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

_CPU_BLOCK = 1 << 15
"""Numbers per block, over all sources. A few such blocks fit a core's cache, and torch runs
operations up to this size on one thread: no thread count shows in the result, and no
operation waits for a second core that is busy elsewhere (ours, measured)."""
_GPU_BLOCK = 1 << 22
"""On a GPU a block must be worth its kernel launches (ours)."""

Combine = Callable[[Tensor, slice], Tensor]
"""Takes task vectors (n_sources, n_block), free to overwrite, and the block's place in the flat
tensor; returns the change of the pivot there, (n_block,)."""


def blocks(tensor: Tensor, n_rows: int) -> Iterator[slice]:
    """Cut the flat index range of a tensor into blocks, for ``n_rows`` numbers per element."""
    numbers = _CPU_BLOCK if tensor.device.type == "cpu" else _GPU_BLOCK
    size = max(numbers // n_rows, 1)
    for start in range(0, tensor.numel(), size):
        yield slice(start, min(start + size, tensor.numel()))


def task_vector_blocks(
    pivot: Tensor, sources: Sequence[Tensor]
) -> Iterator[tuple[slice, Tensor]]:
    """Yield (place in the flat tensor, task vectors there), block by block.

    Args:
        pivot: float32 weights, any shape. Never written to.
        sources: float32 weights of the pivot's shape. Never written to.

    Yields:
        Task vectors (n_sources, n_block) in float64, the caller's to overwrite.
    """
    start = pivot.reshape(-1)
    ends = [source.reshape(-1) for source in sources]
    for place in blocks(pivot, len(sources)):
        yield place, torch.stack([end[place] for end in ends]).double().sub_(start[place])


def agrees_in_sign(tv: Tensor) -> Tensor:
    """Find the values whose sign is that of the sum over sources.

    This is TIES' sign election and Select-Compute-Erase's erasure: the sum is unweighted, a
    zero agrees with nothing, and where the sum is zero nothing agrees.

    Args:
        tv: Task vectors, (n_sources, n_block).

    Returns:
        Booleans of that shape.
    """
    return tv * tv.sum(dim=0).sign() > 0


def add_to_pivot(pivot: Tensor, sources: Sequence[Tensor], combine: Combine) -> Tensor:
    """Add to the pivot what ``combine`` makes of the task vectors.

    Where the change is zero the pivot's bits stay, the sign of a zero included.

    Args:
        pivot: float32 weights, any shape. Never written to.
        sources: float32 weights of the pivot's shape. Never written to.
        combine: Called once per block, in order.

    Returns:
        float32 weights of the pivot's shape, rounded once from float64.
    """
    start = pivot.reshape(-1)
    merged = torch.empty_like(start)
    for place, tv in task_vector_blocks(pivot, sources):
        change = combine(tv, place)
        merged[place] = torch.where(change == 0, start[place], start[place] + change)
    return merged.view(pivot.shape)
