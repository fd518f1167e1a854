"""The cores of this machine: pieces of one task, each on a thread of its own (ours).

Reading, arithmetic on blocks and writing all release Python's global lock, so threads keep every
core busy and overlap the disk with the arithmetic without a queue between them.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self, TypeVar

import torch

_T = TypeVar("_T")


class Workers:
    """A context manager: its threads end with the block."""

    def __init__(self, n_threads: int) -> None:
        """Start nothing yet.

        Args:
            n_threads: At least 1; with 1 everything runs in the calling thread.
        """
        assert n_threads >= 1, n_threads
        self.n_threads = n_threads
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.n_threads > 1:
            self._pool = ThreadPoolExecutor(
                self.n_threads,
                thread_name_prefix="seme",
                initializer=torch.set_num_threads,
                initargs=(1,),  # of that thread: the pieces are what runs side by side
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
            torch.set_num_threads(torch.get_num_threads())  # of threads to come, as of this one

    def map(self, piece: Callable[[int], _T], count: int) -> list[_T]:
        """Call ``piece`` with 0, ..., count - 1 and return what it returns, in that order.

        When one fails, or the caller is interrupted, no further piece is started. Pieces are taken
        in order and all that are taken come to their end: however many threads there are, the
        first that fails is the one whose error is raised.

        Args:
            piece: What to do; called from several threads at once.
            count: How often.

        Raises:
            Exception: What the first piece that cannot be done raised.
        """
        if self._pool is None:
            return [piece(index) for index in range(count)]
        found: dict[int, _T] = {}
        failed: dict[int, BaseException] = {}
        waiting = iter(range(count))

        def work() -> None:
            for index in _until(failed, waiting):
                try:
                    found[index] = piece(index)
                except BaseException as error:
                    failed[index] = error

        running: list[Future[None]] = []
        try:
            n_threads = min(self.n_threads, count)
            for _ in range(n_threads):
                running.append(self._pool.submit(work))
            wait(running)
        except BaseException as error:
            failed[-1] = error  # interrupted: lets the threads come to an end
            wait(running)
            raise
        if failed:
            raise failed[min(failed)]
        return [found[index] for index in range(count)]


def _until(failed: dict[int, BaseException], indices: Iterator[int]) -> Iterator[int]:
    """Take indices, shared with other threads, as long as nothing has failed.

    It is asked before an index is taken: one that is taken is always done.
    """
    while not failed:
        index = next(indices, None)
        if index is None:
            return
        yield index
