"""Passes over the weights: a thread pool, and models read tensor by tensor, block by block.

A pass calls a function for each block of a tensor and returns the results in the order of the
blocks. Block boundaries depend neither on the memory budget nor on the number of threads, so no
result does either. Reading, arithmetic on blocks and writing all release Python's global lock:
threads keep every core busy and overlap the disk with the arithmetic without a queue.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Self, TypeVar

import torch
from torch import Tensor

from seme.checkpoint.protocol import Readable, Weights, describe
from seme.rounding import Raw

CPU_BLOCK = 1 << 17
"""Elements per block: a few blocks of float64 fit the last-level cache, and an operation on one
takes long enough that threads do not wait for Python's lock (measured from 2**15 to 2**18)."""
GPU_BLOCK = 1 << 22
"""Elements per block on a GPU: large enough to be worth the kernel launches (not measured)."""

SMALL = 1 << 24
"""Elements up to which a tensor is processed by one thread, in parallel with other tensors:
passes over it are short, and threads that share it wait for one another."""

_READS_PER_THREAD = 4
"""At least this many reads per thread, so that none waits long for the last read of another."""

Span = tuple[int, int]
"""Consecutive elements of a flat tensor: start and stop."""

_T = TypeVar("_T")
_streams = threading.local()


def holds_row(row_length: int) -> bool:
    """Check that a block, on any device, holds a row of so many elements."""
    return row_length <= CPU_BLOCK


class ThreadPool:
    """A thread pool with ordered results; a context manager that ends its threads."""

    def __init__(self, n_threads: int) -> None:
        """Start no thread yet.

        Args:
            n_threads: At least 1; with 1 everything runs in the calling thread.
        """
        assert n_threads >= 1, n_threads
        self.n_threads = n_threads
        self._executor: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.n_threads > 1:
            self._executor = ThreadPoolExecutor(
                self.n_threads,
                thread_name_prefix="seme",
                initializer=torch.set_num_threads,
                initargs=(1,),  # of that thread: items run in parallel, not their operations
            )
        return self

    def __exit__(self, *_error: object) -> None:
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None
            torch.set_num_threads(torch.get_num_threads())  # of threads to come, as of this one

    def map(self, function: Callable[[int], _T], count: int) -> list[_T]:
        """Return ``[function(0), ..., function(count - 1)]``.

        When an item fails, or the caller is interrupted, items not yet started are cancelled
        and running ones are waited for.

        Args:
            function: Called from several threads at once.
            count: Number of items.

        Raises:
            Exception: The error of the first item, by index, that fails; the same for any
                number of threads.
        """
        if self._executor is None:
            return [function(index) for index in range(count)]
        futures = []
        try:
            for index in range(count):
                futures.append(self._executor.submit(function, index))
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            wait(futures)
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Consecutive elements of one tensor of the pivot and of every source."""

    start: int
    """Flat index of the first element."""
    pivot: Tensor
    """float32 on the device of the merge, (n,)."""
    sources: tuple[Tensor, ...]
    """Like ``pivot``, one per source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a merge; read by streaming, never held in memory."""

    pivot: Weights
    sources: tuple[Weights, ...]
    merged_names: tuple[str, ...]
    """Tensors the method will be called for, in the order of the walk."""
    device: torch.device
    threads: ThreadPool = field(default_factory=lambda: ThreadPool(1))
    blocks_per_read: int = 1
    """Blocks read at once; changes the speed only."""
    cache_bytes: int = 0
    """Most bytes that a pass over a tensor may cache for later ones; changes the speed only."""
    memory_budget: int | None = None
    """Bytes of the whole merge, for preparations that hold whole tensors; None: unlimited."""

    def open(self, name: str, *, row_length: int = 0, kept: bool = True) -> "OpenTensor":
        """Open one tensor of all models.

        Args:
            name: Name of the tensor.
            row_length: Elements of a row, if blocks are to be whole rows, unless one is longer.
            kept: Open it once for all passes; otherwise anew for each, with no file open
                between.
        """
        return OpenTensor(name, self, row_length=row_length, kept=kept)

    def map(self, function: Callable[[int], _T], count: int) -> list[_T]:
        """Call a function with 0 to ``count - 1`` on all cores; see :meth:`ThreadPool.map`."""
        _synchronise(self.device)
        return self.threads.map(function, count)

    def map_tensors(
        self,
        sizes: Sequence[int],
        on_all_cores: Callable[[int], _T],
        on_one_thread: Callable[[int], _T],
    ) -> list[_T]:
        """Process tensors: in parallel within large ones, across small ones.

        Args:
            sizes: Elements of each tensor; a tensor that is the only one counts as large.
            on_all_cores: Processes the large tensor of an index; called by the caller's thread.
            on_one_thread: Processes a small one; called from several threads at once.

        Returns:
            The results, in the order of the tensors.
        """
        small = [i for i, size in enumerate(sizes) if size <= SMALL and len(sizes) > 1]
        large = sorted(set(range(len(sizes))) - set(small))
        results = {index: on_all_cores(index) for index in large}
        in_parallel = self.map(lambda place: on_one_thread(small[place]), len(small))
        results |= zip(small, in_parallel, strict=True)
        return [results[index] for index in range(len(sizes))]


class OpenTensor:
    """One tensor of the pivot and of every source, opened for passes over its blocks."""

    def __init__(self, name: str, models: Models, *, row_length: int, kept: bool) -> None:
        """Open it; see :meth:`Models.open`. Rewritten models compute the tensor here."""
        self.name = name
        self.shape = models.pivot.shape(name)
        """The pivot's."""
        self.numel = math.prod(self.shape)
        self.block = CPU_BLOCK if models.device.type == "cpu" else GPU_BLOCK
        """Elements per block."""
        if row_length and holds_row(row_length):
            self.block -= self.block % row_length
        self.models = models
        self._opened = self._open() if kept else None

    def _open(self) -> tuple[Readable, ...]:
        models = self.models
        try:
            return tuple(model.opened(self.name) for model in (models.pivot, *models.sources))
        except OSError as error:
            error.add_note(f"while opening {self.name}")
            raise

    def fits_the_cache(self, n_bytes: int) -> bool:
        """Check that the results of a pass may be cached."""
        return n_bytes <= self.models.cache_bytes

    def map(
        self,
        function: Callable[[Block], _T],
        spans: Sequence[Span] | None = None,
        *,
        one_thread: bool = False,
    ) -> list[_T]:
        """Call a function for every block, on all cores.

        Args:
            function: Called from several threads at once.
            spans: Elements to visit instead of all blocks.
            one_thread: Stay on the caller's thread, while others work on other tensors.

        Returns:
            The results, in the order of the blocks.

        Raises:
            ValueError: If a model holds NaN or an infinity in this tensor.
        """
        reads = self._reads() if spans is None else spans
        opened = self._opened or self._open()

        def visit(index: int) -> list[_T]:
            return [function(block) for block in self._blocks(opened, *reads[index])]

        per_read = (
            map(visit, range(len(reads))) if one_thread else self.models.map(visit, len(reads))
        )
        return [result for results in per_read for result in results]

    def _reads(self) -> list[Span]:
        """Return the spans read at once: whole blocks, and some reads for every thread."""
        n_blocks = self.numel // self.block
        shared = n_blocks // (_READS_PER_THREAD * self.models.threads.n_threads)
        size = self.block * max(min(self.models.blocks_per_read, shared), 1)
        return [(i, min(i + size, self.numel)) for i in range(0, self.numel, size)]

    def _blocks(self, opened: tuple[Readable, ...], begin: int, end: int) -> Iterator[Block]:
        """Read a span at once and yield its blocks."""
        with _own_stream(self.models.device):
            raw = Raw([tensor.read(begin, end) for tensor in opened], self.models.device)
            for start in range(begin, max(end, begin + 1), self.block):
                rows, finite = raw.upcast(start - begin, min(start + self.block, end) - begin)
                if not all(finite):
                    raise ValueError(
                        f"{self.name} of {self._owner(finite.index(False))} holds NaN or an "
                        "infinity, or a number too large for float32"
                    )
                pivot, *sources = rows.unbind()
                yield Block(start=start, pivot=pivot, sources=tuple(sources))

    def _owner(self, index: int) -> str:
        """Name the pivot, 0, or a source, from 1 on."""
        models = self.models
        if index == 0:
            return f"the pivot ({models.pivot.path})"
        return describe(index - 1, models.sources[index - 1])


def _synchronise(device: torch.device) -> None:
    """Wait for the caller's work on a GPU before other threads build on it."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


@contextlib.contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """Give a thread its own CUDA stream: copies overlap arithmetic."""
    if device.type != "cuda":
        yield
        return
    if not hasattr(_streams, "own"):
        _streams.own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(_streams.own):
        yield
        _streams.own.synchronize()
