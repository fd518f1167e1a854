"""The magnitude of a rank, exactly, in a tensor or over a whole model (ours).

Non-negative float32 numbers order like their bit patterns. Those of a tensor that is held are put
in order as far as need be. For the others, counting patterns gives the exact k-th largest
magnitude in linear time, without sorting and without holding a model: a sample says between which
two patterns it must lie; one pass counts what lies above and, in full resolution, what lies
between. Where the sample misleads, or there is too little to sample, a pass over the upper 16 bits
takes its place.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.columns import MAGNITUDE, Columns, map_all
from seme.kernels import selection

_Bits = NDArray[np.int32]
_INFINITE = 0x7F800000
"""The pattern above that of every number; NaN have still larger ones."""
_LOWER_BITS = 16
_MAX_BETWEEN = 1 << 20
"""Patterns that are told apart in one pass: 8 MB of counts."""
_RUN = 1 << 12
"""Consecutive elements in a sample."""
_N_RUNS = (64, 512)
"""Fewest and most runs in a sample; between, one in 128 elements (ours)."""
_MARGIN = 0.2
"""Uncertainty of a sampled rank, in standard deviations of one element's over the root of the
number of runs: elements of a run are alike (ours; a miss costs a pass, never exactness)."""
_PENDING = 1 << 18
"""Numbers gathered before they are counted, or as many as there are counts if those are more."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """The magnitude of some rank in one column."""

    bits: int
    n_above: int
    n_equal: int
    ties: Sequence[Sequence[int]] | None = None
    """Per tensor, how many of the equal ones each block has, where that is known."""

    @property
    def value(self) -> float:
        """The pattern read as the float32 it stands for."""
        return float(np.int32(self.bits).view(np.float32))

    def n_kept(self, rank: int) -> int:
        """Count the equal ones that survive: up to the rank, and never a zero."""
        return rank - self.n_above if self.bits else 0


@dataclass(frozen=True, slots=True)
class _Range:
    """Patterns between which a threshold lies, both included."""

    low: int
    high: int
    guess: int
    """The one that it most likely is: where that is right, ties need no pass of their own."""

    @property
    def size(self) -> int:
        return self.high - self.low + 1


def thresholds_of(tensors: Sequence[Columns], rank: int, n_total: int) -> list[Threshold]:
    """Find the magnitude of a rank in every column.

    Args:
        tensors: All that is ranked, at least one, all with as many columns.
        rank: From 1, the largest, to ``n_total``; 0 is above all.
        n_total: Number of elements of a column.

    Returns:
        One threshold per column; the same however the elements are cut into tensors.
    """
    if rank == 0:
        return [Threshold(_INFINITE, 0, 0) for _ in range(tensors[0].n_columns)]
    if len(tensors) == 1 and tensors[0].held:
        return [
            _partitioned(tensors[0], column, rank) for column in range(tensors[0].n_columns)
        ]
    ranges = _sampled_ranges(tensors, rank / n_total)
    found = None if ranges is None else _located(tensors, ranges, rank)
    if found is None:
        found = _located(tensors, _upper_ranges(tensors, rank), rank)
    assert found is not None, "the tensors changed between two passes"
    return found


def bits_of(values: Tensor) -> _Bits:
    """The patterns of magnitudes, on the CPU: numpy compares and counts faster there."""
    assert values.dtype == torch.float32, f"float32 is ranked, got {values.dtype}"
    bits: _Bits = values.cpu().numpy().view(np.int32) & MAGNITUDE
    return bits


def _partitioned(tensor: Columns, column: int, rank: int) -> Threshold:
    """Find the threshold of a column that is held: in order, as far as need be."""
    bits = tensor.magnitudes(column)
    place = len(bits) - rank
    bits.partition(place)
    found = bits[place]
    return Threshold(
        bits=int(found),
        n_above=int(np.count_nonzero(bits[place:] > found)),
        n_equal=int(np.count_nonzero(bits == found)),
    )


def _sampled_ranges(tensors: Sequence[Columns], share: float) -> list[_Range] | None:
    """Guess from some blocks between which patterns the threshold of each column lies.

    Returns:
        None where there is too little to sample, or a guess is too wide to count in full.
    """
    n_total = sum(tensor.numel for tensor in tensors)
    least, most = _N_RUNS
    n_runs = min(max(n_total // _RUN // 128, least), most)
    if n_total < 8 * n_runs * _RUN:
        return None
    starts = [n_total * (2 * run + 1) // (2 * n_runs) for run in range(n_runs)]
    sampled = [
        patterns
        for tensor, runs in _by_tensor(tensors, starts)
        for patterns in tensor.map(lambda values, _: [bits_of(row) for row in values], runs)
    ]
    margin = _MARGIN * math.sqrt(share * (1 - share) / n_runs)
    ranges = [_around(np.concatenate(c), share, margin) for c in zip(*sampled, strict=True)]
    return None if any(r.size > _MAX_BETWEEN for r in ranges) else ranges


def _by_tensor(
    tensors: Sequence[Columns], starts: Sequence[int]
) -> Iterator[tuple[Columns, list[tuple[int, int]]]]:
    """Turn places in all tensors, end to end, into runs of elements of each tensor."""
    before = 0
    for tensor in tensors:
        inside = [s - before for s in starts if before <= s < before + tensor.numel]
        if inside:
            yield tensor, [(s, min(s + _RUN, tensor.numel)) for s in inside]
        before += tensor.numel


def _around(sample: _Bits, share: float, margin: float) -> _Range:
    """The patterns of a sample that have the shares ``share`` -+ ``margin`` above them."""
    sample.sort()
    high = len(sample) - math.floor((share - margin) * len(sample))
    low = len(sample) - 1 - math.ceil((share + margin) * len(sample))
    return _Range(
        low=int(sample[low]) if low >= 0 else 0,
        high=int(sample[high]) if high < len(sample) else int(MAGNITUDE),
        guess=int(
            sample[min(max(len(sample) - math.ceil(share * len(sample)), 0), len(sample) - 1)]
        ),
    )


def _upper_ranges(tensors: Sequence[Columns], rank: int) -> list[_Range]:
    """Find, by one pass, the upper 16 bits of the threshold of each column."""
    counts = [_Counts(1 << 31 - _LOWER_BITS) for _ in range(tensors[0].n_columns)]

    def count(values: Tensor, _: int) -> None:
        for tally, row in zip(counts, values, strict=True):
            tally.add(bits_of(row) >> _LOWER_BITS)

    map_all(tensors, count)
    lows = [tally.total().locate(rank)[0] << _LOWER_BITS for tally in counts]
    return [_Range(low, low + (1 << _LOWER_BITS) - 1, guess=low) for low in lows]


def _located(
    tensors: Sequence[Columns], ranges: Sequence[_Range], rank: int
) -> list[Threshold] | None:
    """Find the thresholds by one pass; None where one is not in its range."""
    counts = [_Counts(r.size) for r in ranges]

    def count(values: Tensor, _: int) -> list[tuple[int, int]]:
        lows, sizes, guesses = zip(
            *((r.low, r.size, r.guess - r.low) for r in ranges), strict=True
        )
        found = selection.count(values.cpu(), lows, sizes, guesses)
        for tally, (_, _, between) in zip(counts, found, strict=True):
            tally.add(between)
        return [(n_above, n_guessed) for n_above, n_guessed, _ in found]

    seen = map_all(tensors, count)
    found = []
    for column, (tally, r) in enumerate(zip(counts, ranges, strict=True)):
        n_above = sum(of_block[column][0] for blocks in seen for of_block in blocks)
        ties = [[of_block[column][1] for of_block in blocks] for blocks in seen]
        between = tally.total(r.guess - r.low, sum(map(sum, ties)))
        if not n_above < rank <= n_above + between.counts.sum():
            return None
        digit, n_between, n_equal = between.locate(rank - n_above)
        found.append(
            Threshold(
                bits=r.low + digit,
                n_above=n_above + n_between,
                n_equal=n_equal,
                ties=ties if r.low + digit == r.guess else None,
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class _Histogram:
    """Numbers, rising, and how often each was added."""

    numbers: NDArray[np.int64]
    counts: NDArray[np.int64]

    def locate(self, rank: int) -> tuple[int, int, int]:
        """Find the number of a rank (1 is the largest), and how many lie above it and at it."""
        from_top = self.counts[::-1].cumsum()
        step = int(np.searchsorted(from_top, rank))
        place = len(self.counts) - 1 - step
        above = int(from_top[step - 1]) if step else 0
        return int(self.numbers[place]), above, int(self.counts[place])


class _Counts:
    """How often each of the numbers from 0 on was added; from any thread, in any order."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._most_pending = max(size, _PENDING)
        self._counts: NDArray[np.int64] | None = None
        """Most tensors need none: their numbers are counted when all are there."""
        self._pending: list[_Bits] = []
        self._n_pending = 0
        self._lock = threading.Lock()

    def add(self, numbers: _Bits) -> None:
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

    def total(self, number: int = 0, times: int = 0) -> _Histogram:
        """The counts, once all threads are done, and those of one number more."""
        numbers, counts = np.array([number]), np.array([times])
        if self._pending:
            waiting, n_waiting = np.unique(np.concatenate(self._pending), return_counts=True)
            numbers, counts = np.append(numbers, waiting), np.append(counts, n_waiting)
        if self._counts is not None:
            counted = np.flatnonzero(self._counts)
            numbers = np.append(numbers, counted)
            counts = np.append(counts, self._counts[counted])
        numbers, places = np.unique(numbers, return_inverse=True)
        return _Histogram(numbers, np.bincount(places, weights=counts).astype(np.int64))
