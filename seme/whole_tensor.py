"""Whole tensors and whole rows: choose, reserve memory, gather blocks, merge, write in blocks.

On a GPU the tensors are in its memory; they are counted against the budget all the same.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from seme.binding import named_by
from seme.budget import Allocation, mebibytes
from seme.interface import Merge, Site, Traits, traits_of
from seme.streaming import Block, OpenTensor, holds_row

_T = TypeVar("_T")


class SharedMemory:
    """Bytes that threads share: one that needs more than are free waits for the others."""

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._free = n_bytes
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, n_bytes: int) -> Iterator[None]:
        """Reserve bytes while the block runs."""
        assert n_bytes <= self.n_bytes, "memory_for_whole refuses such tensors"
        with self._changed:
            self._changed.wait_for(lambda: n_bytes <= self._free)
            self._free -= n_bytes
        try:
            yield
        finally:
            with self._changed:
                self._free += n_bytes
                self._changed.notify_all()


def whole_names(
    method: functools.partial[Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[str, ...]:
    """Select the tensors that a method is called with whole; the others come in blocks.

    Of a method that takes whole rows they are those whose rows are longer than a block.

    Args:
        method: The merge function, its hyper-parameters bound.
        shapes: Of the tensors to be merged, by name.
    """
    traits = traits_of(method)
    if traits.row_length is not None:
        return tuple(
            n for n, shape in shapes.items() if not holds_row(row_length(method, shape))
        )
    if not traits.whole_tensor:
        return ()
    if traits.choice is None:
        return tuple(shapes)
    choice = functools.partial(traits.choice, **named_by(traits.choice, method))
    return tuple(name for name, shape in shapes.items() if choice(name, shape))


def row_length(method: functools.partial[Tensor], shape: Sequence[int]) -> int:
    """Return the elements of a tensor's rows; 0 if the method takes blocks cut anywhere."""
    length = traits_of(method).row_length
    return 0 if length is None else length(tuple(shape), **named_by(length, method))


def bytes_of_whole(n_elements: int, n_sources: int, traits: Traits) -> int:
    """Count the bytes of one tensor's merge: inputs, result and temporaries in float32."""
    temporaries = traits.temporaries + n_sources * traits.per_source
    return 4 * n_elements * (n_sources + 2 + temporaries)


def memory_for_whole(
    sizes: Mapping[str, int],
    n_sources: int,
    traits: Traits,
    *,
    allocation: Allocation,
    budget: int,
) -> SharedMemory:
    """Take the memory of whole tensors from what the budget leaves.

    Args:
        sizes: Elements of every tensor to be merged, by name.
        n_sources: Number of sources.
        traits: What the method declares.
        allocation: What passes over blocks take.
        budget: Bytes the merge may take.

    Raises:
        ValueError: If the largest tensor does not fit by itself.
    """
    largest = max(sizes, key=lambda name: sizes[name])
    need = bytes_of_whole(sizes[largest], n_sources, traits)
    if allocation.working_bytes + need > budget:
        raise ValueError(
            f"the method merges whole tensors, and {largest} takes {mebibytes(need)} ({need} "
            f"bytes) in addition to {mebibytes(allocation.working_bytes)} for reading and "
            f"writing; memory_budget is {mebibytes(budget)}: raise it to at least "
            f"{mebibytes(allocation.working_bytes + need)}"
        )
    return SharedMemory(budget - allocation.working_bytes)


def peak_of_whole(
    sizes: Mapping[str, int],
    n_sources: int,
    traits: Traits,
    *,
    memory: SharedMemory,
    allocation: Allocation,
) -> int:
    """Estimate the most bytes that whole tensors take at one time.

    Without a preparation each thread holds one tensor where memory allows; with one there is
    one tensor at a time.
    """
    n_at_once = allocation.n_threads if traits.preparation is None else 1
    largest = sorted(sizes.values(), reverse=True)[:n_at_once]
    return min(sum(bytes_of_whole(n, n_sources, traits) for n in largest), memory.n_bytes)


def merge_whole(
    merge: Merge, tensor: OpenTensor, site: Site, finish: Callable[[Block, Tensor], _T]
) -> list[_T]:
    """Merge a tensor in one call of the method, and hand on the result block by block.

    Args:
        merge: The merge function, its hyper-parameters bound.
        tensor: Of the pivot and the sources.
        site: Of the tensor.
        finish: Called with each block and its merged values, from several threads at once.

    Returns:
        What ``finish`` returned, in the order of the blocks; nothing of a tensor without
        elements, for which the method is not called.

    Raises:
        ValueError: As :func:`call`.
    """
    if tensor.numel == 0:
        return []
    pivot, *sources = _gathered(tensor)
    with _one_torch_thread():
        exact = call(merge, pivot, sources, site, whose="the tensor's")
    merged, values = exact.reshape(-1), pivot.view(-1)

    def finish_block(index: int) -> _T:
        start = index * tensor.block
        piece = slice(start, start + tensor.block)
        return finish(Block(start=start, pivot=values[piece], sources=()), merged[piece])

    return tensor.models.map(finish_block, -(-tensor.numel // tensor.block))


def call(
    merge: Merge, pivot: Tensor, sources: Sequence[Tensor], site: Site, *, whose: str
) -> Tensor:
    """Call a merge function and check what it returns and leaves.

    Args:
        merge: The merge function, its hyper-parameters bound.
        pivot: A block, or a whole tensor, of the pivot.
        sources: Of every source.
        site: Its place.
        whose: Owner of the shape in errors.

    Raises:
        ValueError: If the result is no float32 tensor of the inputs' shape and device, or an
            input was written to.
    """
    versions = [tensor._version for tensor in (pivot, *sources)]
    exact = merge(pivot, sources, site)
    if [tensor._version for tensor in (pivot, *sources)] != versions:
        raise ValueError(
            "the method must not write to its inputs: use pivot + x in place of pivot += x, "
            "or write to a clone()"
        )
    if not isinstance(exact, Tensor):
        raise ValueError(f"the method must return a tensor, got {type(exact).__name__}")
    if exact.shape != pivot.shape:
        raise ValueError(
            f"the method must return {whose} shape, {tuple(pivot.shape)}, got "
            f"{tuple(exact.shape)}"
        )
    if exact.dtype != torch.float32:
        raise ValueError(
            f"the method must return float32, got {exact.dtype}: end with .float()"
        )
    if exact.device != pivot.device:
        raise ValueError(
            f"the method must return a tensor on the device of its inputs, {pivot.device}, got "
            f"{exact.device}"
        )
    return exact.detach()


def _gathered(tensor: OpenTensor) -> list[Tensor]:
    """Read a tensor of the pivot and of every source whole, in float32 and its shape.

    They are rows of one matrix, which the kernels then read without a copy.
    """
    models = tensor.models
    rows = torch.empty((1 + len(models.sources), tensor.numel), device=models.device)

    def keep(block: Block) -> None:
        for row, values in zip(rows, (block.pivot, *block.sources), strict=True):
            row[block.start : block.start + values.numel()] = values

    tensor.map(keep)
    return list(rows.view(-1, *tensor.shape).unbind())


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Let torch compute on the caller's thread alone: its sums depend on how many there are."""
    n_threads = torch.get_num_threads()
    if n_threads == 1:  # in a thread pool
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
