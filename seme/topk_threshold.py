"""Exact k-th largest magnitude (top-k threshold) of ranking scores, streaming.

Scores equal to the threshold are cut by index in :mod:`seme.topk_mask`, which makes the masks.

Non-negative float32 numbers order like their bit patterns, so thresholds are found on integers.
Scores are counted in linear time: a sample gives a range of patterns that should hold the
threshold; one pass counts the scores above the range and, per pattern, those inside. If the
threshold is outside, or there is too little to sample, cached scores are partially sorted, and
for others a pass over the upper 16 bits replaces the sample.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels import selection
from seme.pattern_counts import PatternCounts
from seme.ranking_scores import RankingScores, map_all
from seme.streaming import Span

_Bits = NDArray[np.int32]
_MAGNITUDE = np.int32(0x7FFFFFFF)
"""Mask clearing the float32 sign bit."""
_INFINITE = 0x7F800000
"""The pattern above that of every number; NaN have still larger ones."""
_LOWER_BITS = 16
_MAX_RANGE = 1 << 20
"""Most patterns counted in full resolution in one pass: 8 MB of counts."""
_MAX_RANGE_OF_CACHED = 1 << 24
"""The same in one tensor, whose numbers wait and are sorted: in bfloat16 few patterns are many."""
_RUN = 1 << 12
"""Consecutive elements in a sample."""
_N_RUNS = (64, 512)
"""Fewest and most runs in a sample; within these limits one element in 128 is sampled."""
_MARGIN = 0.2
"""Uncertainty of a sampled rank, in standard deviations of one element's over the root of the
number of runs, because elements of a run are alike; a miss costs a pass, never exactness."""
_MIN_COUNTED = 1 << 17
"""Cached scores of a row from which on a sample, of 4,000 and more, gives a narrow range."""
_STEP = 31
"""One run of ``_LINE`` cached scores in so many is sampled: no power of two, as the lengths of rows
often are."""
_LINE = 16
"""Scores in one line of a processor's cache."""
_DEVIATIONS = 4
"""Margin of a rank that is sampled from cached scores, in its standard deviations."""
_NOTHING = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The k-th largest magnitude of one row."""

    bits: int
    n_above: int
    n_equal: int
    n_equal_per_block: Sequence[Sequence[int]] | None = None
    """Per tensor and block, how many magnitudes equal the threshold; None where not counted."""

    @property
    def value(self) -> float:
        """The threshold as a float32 number."""
        return float(np.int32(self.bits).view(np.float32))

    def n_equal_kept(self, rank: int) -> int:
        """Return how many magnitudes at the threshold survive: up to the rank, never a zero."""
        return rank - self.n_above if self.bits else 0


@dataclass(frozen=True, slots=True)
class _Range:
    """Range of patterns that holds a threshold, bounds included."""

    low: int
    high: int
    guess: int
    """Most likely pattern: if it is right, ties need no pass of their own."""

    @property
    def size(self) -> int:
        """The number of patterns."""
        return self.high - self.low + 1


_Ranges = Sequence[Sequence[_Range]]
"""Per row of scores one range for each rank."""


def find_thresholds(
    tensors: Sequence[RankingScores], ranks: Sequence[int], n_total: int
) -> list[list[Threshold]]:
    """Find the k-th largest magnitude of every row, for several k by the same passes.

    Args:
        tensors: Scores that are ranked together, at least one tensor, all with as many rows.
        ranks: k, each from 1, the largest, to ``n_total``; 0 gives a threshold above all.
        n_total: Number of elements of all tensors.

    Returns:
        Per rank one threshold per row; the same for any division of the elements into tensors.
    """
    distinct = sorted({rank for rank in ranks if rank})
    found = {0: [Threshold(_INFINITE, 0, 0)] * tensors[0].n_rows}
    if distinct:
        by_row = _find_by_row(tensors, distinct, n_total)
        found |= zip(distinct, map(list, zip(*by_row, strict=True)), strict=True)
    return [found[rank] for rank in ranks]


def _find_by_row(
    tensors: Sequence[RankingScores], ranks: Sequence[int], n_total: int
) -> list[list[Threshold]]:
    """Find per row one threshold for each rank."""
    is_cached = len(tensors) == 1 and tensors[0].cached
    shares = [rank / n_total for rank in ranks]
    ranges = (_ranges_of_cached if is_cached else _sample_ranges)(tensors, shares)
    thresholds = None if ranges is None else _count_in_ranges(tensors, ranges, ranks)
    if thresholds is None and is_cached:
        rows = range(tensors[0].n_rows)
        return [[_partition(tensors[0], row, rank) for rank in ranks] for row in rows]
    if thresholds is None:
        thresholds = _count_in_ranges(tensors, _upper_ranges(tensors, ranks), ranks)
    assert thresholds is not None, "the tensors changed between two passes"
    return thresholds


def magnitude_bits(values: Tensor) -> _Bits:
    """Return the patterns of magnitudes on the CPU, where numpy compares and counts faster."""
    assert values.dtype == torch.float32, f"float32 is ranked, got {values.dtype}"
    bits: _Bits = values.cpu().numpy().view(np.int32) & _MAGNITUDE
    return bits


def _partition(tensor: RankingScores, row: int, rank: int) -> Threshold:
    """Find the threshold of a row of cached scores by partial sorting."""
    magnitudes = np.empty(tensor.numel, dtype=np.int32)

    def copy(rows: Tensor, start: int) -> None:
        bits = rows[row].numpy().view(np.int32)
        np.bitwise_and(bits, _MAGNITUDE, out=magnitudes[start : start + len(bits)])

    tensor.map(copy)
    place = len(magnitudes) - rank
    magnitudes.partition(place)
    threshold = magnitudes[place]
    return Threshold(
        bits=int(threshold),
        n_above=int(np.count_nonzero(magnitudes[place:] > threshold)),
        n_equal=int(np.count_nonzero(magnitudes == threshold)),
    )


def _sample_ranges(tensors: Sequence[RankingScores], shares: Sequence[float]) -> _Ranges | None:
    """Estimate the ranges from a sample; None if it is small, or a range is wide."""
    n_total = sum(tensor.numel for tensor in tensors)
    n_runs = min(max(n_total // _RUN // 128, _N_RUNS[0]), _N_RUNS[1])
    if n_total < 8 * n_runs * _RUN:
        return None
    starts = [n_total * (2 * run + 1) // (2 * n_runs) for run in range(n_runs)]
    samples = [
        patterns
        for tensor, runs in _by_tensor(tensors, starts)
        for patterns in tensor.map(lambda rows, _: magnitude_bits(rows), runs)
    ]
    return _ranges_around(samples, shares, _MARGIN / math.sqrt(n_runs), _MAX_RANGE)


def _ranges_of_cached(
    tensors: Sequence[RankingScores], shares: Sequence[float]
) -> _Ranges | None:
    """Estimate the ranges in one tensor; None if it is small, or a range is wide."""
    (tensor,) = tensors
    if tensor.numel < _MIN_COUNTED:
        return None
    samples = tensor.map(lambda rows, _: magnitude_bits(_lines(rows)))
    margin = _DEVIATIONS / math.sqrt(tensor.numel / _STEP)
    return _ranges_around(samples, shares, margin, _MAX_RANGE_OF_CACHED)


def _lines(rows: Tensor) -> Tensor:
    """Take one line in ``_STEP`` of each row; none of what is left at the end."""
    whole = rows[:, : rows.shape[1] // (_STEP * _LINE) * _STEP * _LINE]
    return whole.reshape(len(rows), -1, _STEP * _LINE)[..., :_LINE].flatten(1)


def _ranges_around(
    samples: Sequence[_Bits], shares: Sequence[float], margin: float, most: int
) -> _Ranges | None:
    """Return the ranges around shares of a sample; None if one is wide.

    Args:
        samples: Parts of the sample, (n_rows, n) each; sorted here.
        shares: Of the ranks.
        margin: Uncertainty of a share, in standard deviations of one element's.
        most: Patterns in a range, below which it is not wide.
    """
    sample = np.concatenate(samples, axis=1)
    sample.sort(axis=1)
    ranges = [
        [_around(row, share, margin * math.sqrt(share * (1 - share))) for share in shares]
        for row in sample
    ]
    return None if any(r.size > most for row in ranges for r in row) else ranges


def _by_tensor(
    tensors: Sequence[RankingScores], starts: Sequence[int]
) -> Iterator[tuple[RankingScores, list[Span]]]:
    """Convert start indices in the concatenated tensors to runs within each tensor."""
    before = 0
    for tensor in tensors:
        inside = [s - before for s in starts if before <= s < before + tensor.numel]
        if inside:
            yield tensor, [(s, min(s + _RUN, tensor.numel)) for s in inside]
        before += tensor.numel


def _around(sample: _Bits, share: float, margin: float) -> _Range:
    """Return the range of patterns with shares ``share`` -+ ``margin`` above them, of a sorted row."""
    high = len(sample) - math.floor((share - margin) * len(sample))
    low = len(sample) - 1 - math.ceil((share + margin) * len(sample))
    middle = len(sample) - math.ceil(share * len(sample))
    return _Range(
        low=int(sample[low]) if low >= 0 else 0,
        high=int(sample[high]) if high < len(sample) else int(_MAGNITUDE),
        guess=int(sample[min(max(middle, 0), len(sample) - 1)]),
    )


def _upper_ranges(tensors: Sequence[RankingScores], ranks: Sequence[int]) -> _Ranges:
    """Find, by one pass, the upper 16 bits of the thresholds of each row."""
    counters = [PatternCounts(1 << 31 - _LOWER_BITS) for _ in range(tensors[0].n_rows)]

    def count(rows: Tensor, _: int) -> None:
        for counter, row in zip(counters, magnitude_bits(rows), strict=True):
            counter.add(row >> _LOWER_BITS)

    map_all(tensors, count)
    located = [[counter.locate(rank) for rank in ranks] for counter in counters]
    lows = [[place[0] << _LOWER_BITS for place in row if place is not None] for row in located]
    return [
        [_Range(low, low + (1 << _LOWER_BITS) - 1, guess=low) for low in row] for row in lows
    ]


def _count_in_ranges(
    tensors: Sequence[RankingScores], ranges: _Ranges, ranks: Sequence[int]
) -> list[list[Threshold]] | None:
    """Find per row one threshold for each rank, by one pass; None if one is not in its range."""
    bounds = np.array(
        [[(r.low, r.size, r.guess - r.low) for r in row] for row in ranges], dtype=np.int32
    )
    is_cached = all(tensor.cached for tensor in tensors)
    counters = [[PatternCounts(r.size) for r in row] for row in ranges]

    def count(rows: Tensor, _: int) -> list[list[selection.Counted]]:
        counted = selection.count(rows.cpu(), bounds)
        for row, of_row in zip(counters, counted, strict=True):
            for counter, one in zip(row, of_row, strict=True):
                counter.add(one.inside)
        if is_cached:
            return counted
        return [[one._replace(inside=_NOTHING) for one in of_row] for of_row in counted]

    blocks = map_all(tensors, count)
    thresholds = [
        [
            _located(
                [[block[row][place] for block in of_tensor] for of_tensor in blocks],
                counters[row][place],
                r,
                rank,
                is_cached=is_cached,
            )
            for place, (r, rank) in enumerate(zip(of_row, ranks, strict=True))
        ]
        for row, of_row in enumerate(ranges)
    ]
    found = [[one for one in row if one is not None] for row in thresholds]
    return found if all(len(row) == len(ranks) for row in found) else None


def _located(
    blocks: Sequence[Sequence[selection.Counted]],
    counter: PatternCounts,
    r: _Range,
    rank: int,
    *,
    is_cached: bool,
) -> Threshold | None:
    """Return the threshold of one row and rank; None if it is not in the range.

    Args:
        blocks: What was counted, per tensor and block.
        counter: Counts of the patterns in the range that are not the guess.
        r: The range.
        rank: k.
        is_cached: The blocks hold the patterns themselves.
    """
    n_above = sum(block.n_above for tensor in blocks for block in tensor)
    n_guessed = [[block.n_guessed for block in tensor] for tensor in blocks]
    guess = r.guess - r.low
    located = counter.locate(rank - n_above, guess, sum(map(sum, n_guessed)))
    if located is None:
        return None
    offset, n_inside, n_equal = located
    n_tied: list[list[int]] | None = None
    if offset == guess:
        n_tied = n_guessed
    elif is_cached:
        n_tied = [
            [int(np.count_nonzero(block.inside == offset)) for block in tensor]
            for tensor in blocks
        ]
    return Threshold(
        bits=r.low + offset,
        n_above=n_above + n_inside,
        n_equal=n_equal,
        n_equal_per_block=n_tied,
    )
