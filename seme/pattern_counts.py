"""Counts of bit patterns, added from any thread, and the pattern of a rank."""

import threading

import numpy as np
from numpy.typing import NDArray

_Bits = NDArray[np.int32]
_PENDING = 1 << 18
"""Numbers gathered before they are counted; the number of counts if that is more."""


class PatternCounts:
    """Counts of the numbers from 0 to ``size - 1``, added from any thread in any order."""

    def __init__(self, size: int) -> None:
        """Count nothing yet; ``size`` is the number of different numbers."""
        self._size = size
        self._most_pending = max(size, _PENDING)
        self._counts: NDArray[np.int64] | None = None
        """Allocated for large tensors only: few numbers are counted once, at the end."""
        self._pending: list[_Bits] = []
        self._n_pending = 0
        self._lock = threading.Lock()

    def add(self, numbers: _Bits) -> None:
        """Count numbers, 1-D; they may wait until they are asked for."""
        with self._lock:
            self._pending.append(numbers)
            self._n_pending += len(numbers)
            if self._n_pending < self._most_pending:
                return
            counts = np.bincount(np.concatenate(self._pending), minlength=self._size)
            if self._counts is None:
                self._counts = counts
            else:
                self._counts += counts
            self._pending, self._n_pending = [], 0

    def locate(self, rank: int, number: int = 0, times: int = 0) -> tuple[int, int, int] | None:
        """Return the number of a rank (1 is the largest), and the counts above it and of it.

        Called when all threads are done; ``number`` counts ``times`` more. None if the rank is
        not from 1 to the number of numbers.
        """
        numbers, counts = np.array([number]), np.array([times])
        if self._pending:
            pending, n_pending = np.unique(np.concatenate(self._pending), return_counts=True)
            numbers, counts = np.append(numbers, pending), np.append(counts, n_pending)
        if self._counts is not None:
            counted = np.flatnonzero(self._counts)
            numbers = np.append(numbers, counted)
            counts = np.append(counts, self._counts[counted])
        numbers, places = np.unique(numbers, return_inverse=True)
        from_top = np.bincount(places, weights=counts)[::-1].cumsum().astype(np.int64)
        if not 1 <= rank <= from_top[-1]:
            return None
        step = int(np.searchsorted(from_top, rank))
        above = int(from_top[step - 1]) if step else 0
        return int(numbers[-1 - step]), above, int(from_top[step]) - above
