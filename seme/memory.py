"""The memory a merge works in, beside what the interpreter holds: a few blocks per thread (ours)."""

import torch

from seme.streaming import CPU_BLOCK, GPU_BLOCK

_MOST_AT_ONCE = 16
_RAW_BYTES = 4
"""Of one element as read; float64 models take twice that."""
_FIXED_BYTES = 16_000_000
"""The writer's, the walk's and Python's own (measured on the 0.5 B shape, generously)."""
_COUNT_BYTES = 24_000_000
"""Counting the patterns of one column of magnitudes in :mod:`seme.selection`: a million counts
of 8 bytes, as many being added, and the numbers waiting for it."""


def blocks_at_once(budget: int, n_sources: int, n_threads: int, device: torch.device) -> int:
    """Choose how many blocks are read in one piece, from 1 to 16.

    Args:
        budget: Bytes the merge may take beside the interpreter.
        n_sources: Number of sources.
        n_threads: Threads that each hold a piece.
        device: Where the blocks are worked on.

    Raises:
        ValueError: If the budget is too small even for one block per thread.
    """
    need = working_bytes(n_sources, n_threads, 1, device)
    if need > budget:
        raise ValueError(
            f"memory_budget must be at least {_mebibytes(need)} for {n_sources} sources on "
            f"{n_threads} threads, got {_mebibytes(budget)}: raise it, or set OMP_NUM_THREADS"
        )
    if device.type != "cpu":
        return 1
    more = working_bytes(n_sources, n_threads, 2, device) - need
    return min(1 + (budget - need) // more, _MOST_AT_ONCE)


def working_bytes(n_sources: int, n_threads: int, at_once: int, device: torch.device) -> int:
    """Estimate the memory of all passes and the walk over models on disk.

    Per thread and element there are the raw values of all models, for every block read at once;
    and for one block their float32, the task vectors in float64, four float64 temporaries and
    the merged values.

    Returns:
        Bytes. The size of the models does not matter.
    """
    block = CPU_BLOCK if device.type == "cpu" else GPU_BLOCK
    raw = at_once * _RAW_BYTES * (n_sources + 1)
    one = 4 * (n_sources + 1) + 8 * (n_sources + 4) + 8
    return _FIXED_BYTES + n_sources * _COUNT_BYTES + n_threads * block * (raw + one)


def keep_freed_memory() -> None:
    """Have glibc keep what blocks free instead of giving it back to the system and asking again.

    It does so for sizes up to the largest it has seen freed, at most 32 MiB. Without this the
    pages of every block are handed out, cleared and taken back again and again: a third of the
    time of averaging (measured). Other allocators are not touched.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _mebibytes(n_bytes: int) -> str:
    return f"{-(-n_bytes // 2**20)}MiB"
