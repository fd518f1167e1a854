"""Files written to disk in the background, while more of them is made."""

import os
from concurrent.futures import Future, ThreadPoolExecutor


class Writeback:
    """Writes the dirty pages of open files to disk, one request at a time.

    The disk then works during a merge, and the last flush does not grow with the model. Pages stay
    in the page cache: what reads the result next, to hash or to evaluate it, does not read the disk.
    Where the system has no ``fdatasync`` (macOS) nothing is written early.
    """

    def __init__(self) -> None:
        """Start no thread before the first request."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="seme-writeback")
        self._running: Future[None] | None = None

    def request(self, descriptor: int) -> None:
        """Start writing a file to disk, unless the last request still runs; by one thread at a time.

        Raises:
            OSError: If the last request failed.
        """
        if not hasattr(os, "fdatasync") or (self._running and not self._running.done()):
            return
        self.wait()
        self._running = self._executor.submit(os.fdatasync, descriptor)

    def wait(self) -> None:
        """Wait for the request that runs.

        Raises:
            OSError: If it failed: the kernel reports a failed write once, to this request.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Wait for the request that runs, whatever comes of it, and end the thread."""
        self._executor.shutdown()
