"""The memory a merge works in, beside what the interpreter holds: a few blocks per thread (ours)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from seme.streaming import CPU_BLOCK, GPU_BLOCK

_MOST_AT_ONCE = 4
"""More are read no faster (ours, measured with 1 to 16)."""
_MOST_HELD = 96 << 20
"""Per thread; for larger tensors a pass more is no dearer than memory (ours)."""
_RAW_BYTES = 8
"""Of one element as read, at most: that of float64."""
_FIXED_BYTES = 16_000_000
"""The writer's, the walk's and Python's own (measured on the 0.5 B shape, generously)."""
_COUNT_BYTES = 32_000_000
"""Counting the patterns of one column of magnitudes in :mod:`seme.ranking`: a million counts
of 8 bytes, as many being added by each of two threads, and the numbers waiting for it."""
_REWRITTEN_COPIES = 6
"""Float32 copies of the largest tensor while a source is rewritten, beside those of pivot and
sources: the source's own, a product, its rows in the pivot's order (ours, counted in the code)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How a merge uses its budget."""

    n_threads: int
    """Threads that work side by side."""
    blocks_at_once: int
    """How many blocks each of them reads in one piece."""
    working_bytes: int
    """What they take."""
    held_bytes: int
    """What a pass over a tensor may hold beside that for those behind it."""


def share_out(budget: int, n_sources: int, n_threads: int, device: torch.device) -> Room:
    """Share out a budget: first threads, then blocks, then what is held.

    Args:
        budget: Bytes the merge may take beside the interpreter.
        n_sources: Number of sources.
        n_threads: The most threads.
        device: Where the blocks are worked on.

    Raises:
        ValueError: If the budget is too small even for one thread and block.
    """
    n_threads = threads_that_fit(budget, n_sources, n_threads, device)
    at_once = blocks_at_once(budget, n_sources, n_threads, device)
    taken = working_bytes(n_sources, n_threads, at_once, device)
    return Room(
        n_threads=n_threads,
        blocks_at_once=at_once,
        working_bytes=taken,
        held_bytes=min(budget - taken, n_threads * _MOST_HELD) if device.type == "cpu" else 0,
    )


def threads_that_fit(budget: int, n_sources: int, n_threads: int, device: torch.device) -> int:
    """Choose how many threads work side by side, at most ``n_threads`` and at least one."""
    while n_threads > 1 and working_bytes(n_sources, n_threads, 1, device) > budget:
        n_threads -= 1
    return n_threads


def blocks_at_once(budget: int, n_sources: int, n_threads: int, device: torch.device) -> int:
    """Choose how many blocks are read in one piece, from 1 to 4.

    Args:
        budget: Bytes the merge may take beside the interpreter.
        n_sources: Number of sources.
        n_threads: Threads that each hold a piece; see :func:`threads_that_fit`.
        device: Where the blocks are worked on.

    Raises:
        ValueError: If the budget is too small even for one block per thread.
    """
    need = working_bytes(n_sources, n_threads, 1, device)
    if need > budget:
        raise ValueError(
            f"memory_budget must be at least {mebibytes(need)} for {n_sources} sources on "
            f"{n_threads} threads, got {mebibytes(budget)}: raise it"
        )
    if device.type != "cpu":
        return 1
    more = working_bytes(n_sources, n_threads, 2, device) - need
    return min(1 + (budget - need) // more, _MOST_AT_ONCE)


def working_bytes(n_sources: int, n_threads: int, at_once: int, device: torch.device) -> int:
    """Estimate the memory of all passes and the walk over models on disk.

    Per thread and element there are the raw values of all models, for every block read at once;
    and for one block their float32, per source a number that is ranked and its place or a draw,
    the merged values and those rounded. On a GPU the raw values are there twice, once in pinned
    memory, and the rest is the GPU's.

    Returns:
        Bytes of the host. The size of the models does not matter.
    """
    on_cpu = device.type == "cpu"
    raw = at_once * _RAW_BYTES * (n_sources + 1)
    one = 4 * (n_sources + 1) + 9 * n_sources + 16 if on_cpu else raw + 8
    block = CPU_BLOCK if on_cpu else GPU_BLOCK
    return _FIXED_BYTES + n_sources * _COUNT_BYTES + n_threads * block * (raw + one)


def rewritten_bytes(n_elements: Iterable[int], n_sources: int) -> int:
    """Estimate what sources that have to be rewritten take more: whole tensors in float32.

    Args:
        n_elements: Of every tensor.
        n_sources: Number of sources; each one's, and the pivot's, are there at one time.

    Returns:
        Bytes.
    """
    return 4 * max(n_elements) * (n_sources + 1 + _REWRITTEN_COPIES)


def keep_freed_memory() -> None:
    """Have glibc keep what blocks free instead of giving it back to the system and asking again.

    It does so for sizes up to the largest it has seen freed, at most 32 MiB. Without this the
    pages of every block are handed out, cleared and taken back again and again: a third of the
    time of averaging (measured). Other allocators are not touched.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def mebibytes(n_bytes: int) -> str:
    """Show a size as memory_budget takes it, rounded up."""
    return f"{-(-n_bytes // 2**20)}MiB"
