"""The memory a merge works in, beside what the interpreter holds: a few blocks per thread (ours)."""

from collections.abc import Mapping
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
"""Counting the patterns of one column of magnitudes in :mod:`seme.topk`, on all cores: a
million counts of 8 bytes, as many being added, and twice the numbers waiting for it."""
_RANKED_ALONE_BYTES = (16_000_000, 3_000_000)
"""The same of a tensor that one core ranks beside others, and of each of its columns: the numbers
between two patterns, about a fiftieth of at most ``SMALL``, and what putting them in order takes
(ours, generously)."""
_COMPARED_MATRICES = 30
"""Of width x width in float32, at one time while two heads are compared (ours, measured at widths
of 1024 and 2048: 15 in float64)."""
_COMPARED_BYTES = 80_000_000
"""What the solvers take beside them (ours, measured)."""
_REWRITTEN_COPIES = 6
"""Float32 copies of the largest tensor while a source is rewritten, beside those of pivot and
sources: the source's own, a product, its rows in the pivot's order (ours, counted in the code)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How a merge uses its budget."""

    n_threads: int
    """Threads that work side by side."""
    blocks_per_read: int
    """How many blocks each of them reads in one piece."""
    working_bytes: int
    """What they take."""
    cache_bytes: int
    """What a pass over a tensor may hold beside that for those behind it."""
    ranked_alone: bool
    """Whether each thread may rank a tensor of its own in its share of that."""


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
    at_once = blocks_per_read(budget, n_sources, n_threads, device)
    taken = working_bytes(n_sources, n_threads, at_once, device)
    held = min(budget - taken, n_threads * _MOST_HELD) if device.type == "cpu" else 0
    of_tensor, of_column = _RANKED_ALONE_BYTES
    return Room(
        n_threads=n_threads,
        blocks_per_read=at_once,
        working_bytes=taken,
        cache_bytes=held,
        ranked_alone=held >= n_threads * (of_tensor + n_sources * of_column),
    )


def threads_that_fit(budget: int, n_sources: int, n_threads: int, device: torch.device) -> int:
    """Choose how many threads work side by side, at most ``n_threads`` and at least one."""
    while n_threads > 1 and working_bytes(n_sources, n_threads, 1, device) > budget:
        n_threads -= 1
    return n_threads


def blocks_per_read(budget: int, n_sources: int, n_threads: int, device: torch.device) -> int:
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


def rewritten_bytes(n_elements: Mapping[str, int], n_sources: int) -> int:
    """Estimate what sources that have to be rewritten take more: whole tensors in float32.

    Args:
        n_elements: Of every tensor, by its name.
        n_sources: Number of sources; of each one, and of the pivot, the tensors of a module are
            there at one time, an MLP's as a rule.

    Returns:
        Bytes.
    """
    modules: dict[str, int] = {}
    for name, n in n_elements.items():
        module = ".".join(name.split(".")[:-2])
        modules[module] = modules.get(module, 0) + n
    copies = max(n_elements.values()) * _REWRITTEN_COPIES
    return 4 * (max(modules.values()) * (n_sources + 1) + copies)


def compared_bytes(n_rows: int, width: int, n_sources: int, *, itemsize: int) -> int:
    """Estimate what comparing the sources' heads with the pivot's takes (ours, measured).

    Args:
        n_rows: Of each head, that are compared.
        width: Of the models.
        n_sources: Number of sources; a map of each one is kept.
        itemsize: Bytes of one element of a head.

    Returns:
        Bytes: matrices of width x width, the rows of two heads, and what solving takes.
    """
    matrices = (_COMPARED_MATRICES + n_sources) * 4 * width * width
    return _COMPARED_BYTES + matrices + 2 * n_rows * width * itemsize


def demand(need: int, budget: int | None, doing: str) -> None:
    """Refuse what a preparation would hold beyond the budget.

    Args:
        need: Bytes it takes.
        budget: Bytes the merge may take beside the interpreter; None for any.
        doing: What takes them, as the error begins.

    Raises:
        ValueError: If they are more; says what would do.
    """
    if budget is not None and need > budget:
        raise ValueError(
            f"{doing} takes about {mebibytes(need)} for these models; memory_budget is "
            f"{mebibytes(budget)}: raise it"
        )


def keep_freed_memory() -> None:
    """Have glibc keep what blocks free instead of giving it back to the system and asking again.

    It does so for sizes up to the largest it has seen freed, at most 32 MiB. Without this the
    pages of every block are handed out, cleared and taken back again and again: a quarter of the
    time of averaging (measured). Other allocators are not touched.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def mebibytes(n_bytes: int) -> str:
    """Show a size as memory_budget takes it, rounded up."""
    return f"{-(-n_bytes // 2**20)}MiB"
