"""Memory budget: threads, blocks per read and cache that fit a number of bytes.

Budgets and estimates exclude the Python process with its libraries.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from seme.streaming import CPU_BLOCK, GPU_BLOCK

_MOST_BLOCKS_PER_READ = 4
"""More do not read faster (measured with 1 to 16)."""
_MOST_CACHE_BYTES = 96 << 20
"""Per thread; for larger tensors another pass costs no more than the memory."""
_STORED_BYTES = 8
"""Most bytes of an element in its stored dtype: float64."""
_FIXED_BYTES = 16_000_000
"""Memory of the writer, the walk and Python objects (measured at 0.5 B, rounded up)."""
_COUNT_BYTES = 32_000_000
"""Memory of counting magnitude patterns in :mod:`seme.topk_threshold` on all cores, per row of scores: a
million counts of 8 bytes, as many being added, and twice the numbers pending."""
_COUNT_BYTES_AN_ELEMENT = 16
"""The same for models of few elements, per element and row of scores: the number that is pending, and
its count (counted in the code, rounded up)."""
_COUNT_BYTES_ON_ONE_THREAD = (16_000_000, 3_000_000)
"""The same for a tensor ranked by one thread, fixed and per row: the numbers between two
patterns, about a fiftieth of at most ``SMALL``, and sorting them (rounded up)."""
_COMPARED_MATRICES = 30
"""Peak number of live (width, width) float32 matrices when comparing two LM heads (measured at
widths of 1024 and 2048: 15 in float64)."""
_COMPARED_BYTES = 80_000_000
"""Workspace of the solvers in that comparison (measured)."""
_REWRITTEN_COPIES = 6
"""Float32 copies of the largest tensor while a source is rewritten, besides those of pivot and
sources: the source's own, a product, its rows in the pivot's order (counted in the code)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of the models that bound the memory of a merge; None where they may be any."""

    n_ranked: int | None = None
    """Elements that are ranked together at most, 0 where the method ranks none."""
    largest: int | None = None
    """Elements of the largest tensor."""


_ANY = Sizes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Division of a memory budget."""

    n_threads: int
    """Threads that run in parallel."""
    blocks_per_read: int
    """Blocks that each of them reads at once."""
    working_bytes: int
    """Bytes of all passes and the walk; see :func:`working_bytes`."""
    cache_bytes: int
    """Bytes beyond those that one pass may cache for later ones."""
    rank_per_thread: bool
    """Each thread may rank a tensor of its own in its share of the cache."""


def allocate(
    budget: int, n_sources: int, n_threads: int, device: torch.device, sizes: Sizes = _ANY
) -> Allocation:
    """Divide a budget: first threads, then blocks per read, then cache.

    Args:
        budget: Bytes the merge may take over the Python process.
        n_sources: Number of sources.
        n_threads: The most threads.
        device: Device of the blocks.
        sizes: Of the models.

    Raises:
        ValueError: If the budget is too small even for one thread and block.
    """
    n_threads = threads_that_fit(budget, n_sources, n_threads, device, sizes)
    n_blocks = blocks_per_read(budget, n_sources, n_threads, device, sizes)
    working = working_bytes(n_sources, n_threads, n_blocks, device, sizes)
    cache = min(budget - working, n_threads * _MOST_CACHE_BYTES) if device.type == "cpu" else 0
    fixed, per_row = _COUNT_BYTES_ON_ONE_THREAD
    return Allocation(
        n_threads=n_threads,
        blocks_per_read=n_blocks,
        working_bytes=working,
        cache_bytes=cache,
        rank_per_thread=cache >= n_threads * (fixed + n_sources * per_row),
    )


def threads_that_fit(
    budget: int, n_sources: int, n_threads: int, device: torch.device, sizes: Sizes = _ANY
) -> int:
    """Choose how many threads run in parallel, at most ``n_threads`` and at least one."""
    while n_threads > 1 and working_bytes(n_sources, n_threads, 1, device, sizes) > budget:
        n_threads -= 1
    return n_threads


def blocks_per_read(
    budget: int, n_sources: int, n_threads: int, device: torch.device, sizes: Sizes = _ANY
) -> int:
    """Choose how many blocks are read at once, from 1 to 4.

    Args:
        budget: Bytes the merge may take over the Python process.
        n_sources: Number of sources.
        n_threads: Threads that each hold what they read; see :func:`threads_that_fit`.
        device: Device of the blocks.
        sizes: Of the models.

    Raises:
        ValueError: If the budget is too small even for one block per thread.
    """
    need = working_bytes(n_sources, n_threads, 1, device, sizes)
    if need > budget:
        raise ValueError(
            f"memory_budget must be at least {mebibytes(need)} for {n_sources} sources on "
            f"{n_threads} threads, got {mebibytes(budget)}: raise it"
        )
    if device.type != "cpu":
        return 1
    more = working_bytes(n_sources, n_threads, 2, device, sizes) - need
    if more == 0:  # no tensor has elements
        return _MOST_BLOCKS_PER_READ
    return min(1 + (budget - need) // more, _MOST_BLOCKS_PER_READ)


def working_bytes(
    n_sources: int, n_threads: int, n_blocks: int, device: torch.device, sizes: Sizes = _ANY
) -> int:
    """Estimate the memory of all passes and the walk over models on disk.

    Per thread and element: the stored values of all models, for all ``n_blocks`` read at once;
    and, for one block, their float32 values, per source a ranking score with its place or a
    random draw, the merged values and those rounded. On a GPU the host holds the stored values
    twice, once in pinned memory, and the GPU the rest.

    Returns:
        Bytes on the host; they grow with the models to a bound that no size exceeds.
    """
    on_cpu = device.type == "cpu"
    stored = n_blocks * _STORED_BYTES * (n_sources + 1)
    float32 = 4 * (n_sources + 1) + 9 * n_sources + 16 if on_cpu else stored + 8
    block = CPU_BLOCK if on_cpu else GPU_BLOCK
    if sizes.largest is not None:
        block = min(block, sizes.largest)
    counts = _COUNT_BYTES
    if sizes.n_ranked is not None:
        counts = min(counts, _COUNT_BYTES_AN_ELEMENT * sizes.n_ranked)
    return _FIXED_BYTES + n_sources * counts + n_threads * block * (stored + float32)


def rewritten_bytes(n_elements: Mapping[str, int], n_sources: int) -> int:
    """Estimate the additional bytes of rewriting sources: whole tensors in float32.

    Args:
        n_elements: Elements of every tensor, by name.
        n_sources: Number of sources. The tensors of one module, as a rule an MLP, of each
            source and of the pivot are held at the same time.
    """
    modules: dict[str, int] = {}
    for name, n in n_elements.items():
        module = ".".join(name.split(".")[:-2])
        modules[module] = modules.get(module, 0) + n
    copies = max(n_elements.values()) * _REWRITTEN_COPIES
    return 4 * (max(modules.values()) * (n_sources + 1) + copies)


def cached_bytes(n_rows: int) -> int:
    """Return the bytes per element of cached ranking scores; see :mod:`seme.ranking_scores`.

    Scores and masks of all rows, and one row's magnitudes while its threshold is computed.
    """
    return 5 * n_rows + 4


def compared_bytes(n_rows: int, width: int, n_sources: int, *, itemsize: int) -> int:
    """Estimate the bytes of comparing the sources' LM heads with the pivot's.

    Args:
        n_rows: Rows (tokens) of each head that are compared.
        width: Hidden size of the models.
        n_sources: Number of sources; one (width, width) map is held for each.
        itemsize: Bytes of one element of a head.
    """
    matrices = (_COMPARED_MATRICES + n_sources) * 4 * width * width
    return _COMPARED_BYTES + matrices + 2 * n_rows * width * itemsize


def demand(need: int, budget: int | None, doing: str) -> None:
    """Refuse a preparation that would exceed the budget.

    Args:
        need: Bytes it takes.
        budget: Bytes the merge may take over the Python process; None: unlimited.
        doing: The preparation, as the subject of the error message.

    Raises:
        ValueError: If ``need`` exceeds ``budget``; names both.
    """
    if budget is not None and need > budget:
        raise ValueError(
            f"{doing} takes about {mebibytes(need)} for these models; memory_budget is "
            f"{mebibytes(budget)}: raise it"
        )


def keep_freed_memory() -> None:
    """Make glibc reuse the memory of freed blocks instead of returning it to the system.

    glibc does so for sizes up to the largest it has seen freed, at most 32 MiB. Otherwise the
    pages of every block are mapped, cleared and unmapped: a quarter of the time of averaging
    (measured). Other allocators are not affected.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def mebibytes(n_bytes: int) -> str:
    """Format a size as memory_budget takes it, rounded up."""
    return f"{-(-n_bytes // 2**20)}MiB"
