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
"""Elements per block: some blocks of float64 fit the last cache, and an operation on one takes
long enough that threads do not wait for Python's lock (ours, measured from 2**15 to 2**18)."""
GPU_BLOCK = 1 << 22
"""On a GPU a block must be worth its kernel launches (ours, not measured)."""

SMALL = 1 << 24
"""Elements up to which a tensor is visited by one thread beside others (ours): passes over it end
often, and threads that share it wait for one another."""

_PIECES_PER_THREAD = 4
"""So that no thread waits long for the last piece of another (ours)."""

Span = tuple[int, int]
"""Consecutive elements of a flat tensor: the first, and the one behind the last."""

_T = TypeVar("_T")
_streams = threading.local()


class Workers:
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

        When an item fails, or the caller is interrupted, items not yet started are cancelled and
        running ones are waited for.

        Args:
            function: Called from several threads at once.
            count: Number of items.

        Raises:
            Exception: The error of the first item, by index, that fails; the same for any number
                of threads.
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
    """Index of the first of them in the flat tensor."""
    pivot: Tensor
    """float32 on the device of the merge, (n,)."""
    sources: tuple[Tensor, ...]
    """The same of each source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a merge as passes over them see them; read by streaming, never kept."""

    pivot: Weights
    sources: tuple[Weights, ...]
    merged_names: tuple[str, ...]
    """Tensors the method will be called for, in the order of the walk."""
    device: torch.device
    workers: Workers = field(default_factory=lambda: Workers(1))
    blocks_at_once: int = 1
    """How many blocks are read in one piece; only the speed depends on it."""
    held_bytes: int = 0
    """What a pass over a tensor may hold for those behind it; only the speed depends on it."""
    memory_budget: int | None = None
    """What the whole merge may take, for preparations that hold whole tensors; None: any."""

    def open(self, name: str, *, kept: bool = True) -> "OpenTensor":
        """Open one tensor of all models.

        Args:
            name: Name of the tensor.
            kept: Open it once for all passes; otherwise anew for each, and hold nothing between.
        """
        return OpenTensor(name, self, kept=kept)

    def side_by_side(self, piece: Callable[[int], _T], count: int) -> list[_T]:
        """Do pieces of work on all cores; see :meth:`Workers.map`."""
        _synchronise(self.device)
        return self.workers.map(piece, count)

    def by_size(
        self,
        sizes: Sequence[int],
        together: Callable[[int], _T],
        alone: Callable[[int], _T],
    ) -> list[_T]:
        """Visit tensors: each large one on all cores, then the small ones side by side.

        Args:
            sizes: Their elements; a tensor that is the only one counts as large.
            together: Visits the tensor of an index; called by the caller's thread.
            alone: The same on one core; called from several threads at once.

        Returns:
            What they returned, in the order of the tensors.
        """
        is_small = [size <= SMALL and len(sizes) > 1 for size in sizes]
        small = [index for index, it_is in enumerate(is_small) if it_is]
        found = {index: together(index) for index, it_is in enumerate(is_small) if not it_is}
        visited = self.side_by_side(lambda place: alone(small[place]), len(small))
        found |= zip(small, visited, strict=True)
        return [found[index] for index in range(len(sizes))]


class OpenTensor:
    """One tensor of the pivot and of every source, opened for passes over its blocks."""

    def __init__(self, name: str, models: Models, *, kept: bool) -> None:
        """Open it; see :meth:`Models.open`. Rewritten models compute theirs when it is opened."""
        self.name = name
        self.shape = models.pivot.shape(name)
        """The pivot's."""
        self.numel = math.prod(self.shape)
        self.block = CPU_BLOCK if models.device.type == "cpu" else GPU_BLOCK
        """Elements per block."""
        self.models = models
        self._opened = self._open() if kept else None

    def _open(self) -> tuple[Readable, ...]:
        models = self.models
        try:
            return tuple(model.opened(self.name) for model in (models.pivot, *models.sources))
        except OSError as error:
            error.add_note(f"while opening {self.name}")
            raise

    def may_hold(self, n_bytes: int) -> bool:
        """Tell whether there is room to hold what a pass computed."""
        return n_bytes <= self.models.held_bytes

    def map(
        self,
        function: Callable[[Block], _T],
        only: Sequence[Span] | None = None,
        *,
        alone: bool = False,
    ) -> list[_T]:
        """Call a function for every block, on all cores.

        Args:
            function: Called from several threads at once.
            only: The blocks to visit instead.
            alone: On the caller's core, while others work on other tensors.

        Returns:
            What it returned, in the order of the blocks.

        Raises:
            ValueError: If a model holds NaN or an infinity here.
        """
        spans = self._spans() if only is None else only
        opened = self._opened or self._open()

        def visit(index: int) -> list[_T]:
            return [function(block) for block in self._blocks(opened, *spans[index])]

        found = (
            map(visit, range(len(spans)))
            if alone
            else self.models.side_by_side(visit, len(spans))
        )
        return [result for results in found for result in results]

    def _spans(self) -> list[Span]:
        """What is read in one piece each: whole blocks, and some pieces for every thread."""
        n_blocks = self.numel // self.block
        shared = n_blocks // (_PIECES_PER_THREAD * self.models.workers.n_threads)
        size = self.block * max(min(self.models.blocks_at_once, shared), 1)
        return [(i, min(i + size, self.numel)) for i in range(0, self.numel, size)]

    def _blocks(self, opened: tuple[Readable, ...], begin: int, end: int) -> Iterator[Block]:
        """Read consecutive blocks in one piece and yield them."""
        with _own_stream(self.models.device):
            raw = Raw([tensor.read(begin, end) for tensor in opened], self.models.device)
            for start in range(begin, max(end, begin + 1), self.block):
                rows, finite = raw.widened(start - begin, min(start + self.block, end) - begin)
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
    """Let what the caller has queued on a GPU end before other threads build on it."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


@contextlib.contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """Queue a thread's work on a GPU in a stream of its own: copies overlap arithmetic."""
    if device.type != "cuda":
        yield
        return
    if not hasattr(_streams, "own"):
        _streams.own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(_streams.own):
        yield
        _streams.own.synchronize()
