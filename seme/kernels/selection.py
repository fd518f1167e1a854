"""Ranking scores, counts of magnitude patterns, and top-k masks of a block."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled, flat, rows

_Floats = NDArray[np.float32]
_Doubles = NDArray[np.float64]
_Bits = NDArray[np.int32]
_Flags = NDArray[np.bool_]
_RUN = 1024
"""Elements at a time, a multiple of those in ``_WORDS``."""
_WORDS = 8
"""Words of 64 bits, of two flags each, that are tested at once."""
_MAGNITUDE = np.int32(0x7FFFFFFF)


def variance(sources: Sequence[Tensor], scale: float) -> Tensor:
    """Compute the variance over at least two sources per element, times n^2 and a scale.

    Returns:
        float32, in the sources' shape; exactly zero where all sources are equal.
    """
    variances = torch.empty(sources[0].shape)
    _variance(rows(sources), scale, flat(variances))
    return variances


def differences(pivot: Tensor, sources: Sequence[Tensor]) -> Tensor:
    """Compute task vectors in float32, (n_sources, n)."""
    tv = torch.empty((len(sources), pivot.numel()))
    _differences(flat(pivot), rows(sources), tv.numpy())
    return tv


def survivors(
    values: Tensor,
    thresholds: Sequence[float],
    n_tied: Sequence[int],
    limits: Sequence[float] | None = None,
    n_at_limit: Sequence[int] | None = None,
) -> Tensor:
    """Compute masks of magnitudes between a threshold and a limit.

    Args:
        values: float32, (k, n).
        thresholds: One per row, non-negative float32 numbers; larger magnitudes survive.
        n_tied: Per row, the number of first elements that survive at the threshold too.
        limits: One per row, no smaller than its threshold; larger magnitudes do not survive.
            None limits nothing.
        n_at_limit: Per row, the number of first elements that do not survive at the limit either.

    Returns:
        Booleans, (k, n).
    """
    masks = torch.empty(values.shape, dtype=torch.bool)
    upper = [math.inf] * len(values) if limits is None else limits
    n_upper = [0] * len(values) if n_at_limit is None else n_at_limit
    patterns = np.array([thresholds, upper], dtype=np.float32).view(np.int32)
    n_equal = np.array([n_tied, n_upper], dtype=np.int64)
    _survivors(values.numpy().view(np.int32), patterns, n_equal, masks.numpy())
    return masks


class Counted(NamedTuple):
    """Magnitudes of one row of a block beside a range of bit patterns."""

    n_above: int
    """Magnitudes above the range."""
    n_guessed: int
    """Magnitudes at the guess."""
    inside: _Bits
    """Offsets in the range of all others in it."""


def count(values: Tensor, ranges: _Bits) -> list[list[Counted]]:
    """Count magnitudes above ranges of bit patterns, and gather those in them.

    Args:
        values: float32, (k, n).
        ranges: int32, (k, n_ranges, 3): per row and range the first pattern, the number of
            patterns, and an offset in the range whose patterns are counted and not gathered.

    Returns:
        Per row, one entry for each range.
    """
    bits = values.numpy().view(np.int32)
    n_ranges = ranges.shape[1]
    offsets = np.empty((len(bits), n_ranges, bits.shape[1]), dtype=np.int32)
    counts = np.zeros((len(bits), n_ranges, 3), dtype=np.int64)
    _count(bits, ranges, offsets, counts)
    return [
        [
            Counted(n_above, n_guessed, inside[:n_inside].copy())
            for inside, (n_above, n_guessed, n_inside) in zip(*row, strict=True)
        ]
        for row in zip(offsets, counts.tolist(), strict=True)
    ]


@compiled
def _variance(sources: _Floats, scale: float, out: _Floats) -> None:
    n_sources, n = sources.shape
    origins, sums, squares = np.empty(_RUN), np.empty(_RUN), np.empty(_RUN)
    for start in range(0, n, _RUN):
        stop = min(start + _RUN, n)
        m = stop - start
        _begin(sources[0, start:stop], origins[:m], sums[:m], squares[:m])
        for k in range(1, n_sources):
            _add_moments(sources[k, start:stop], origins[:m], sums[:m], squares[:m])
        _end(sums[:m], squares[:m], n_sources * scale, scale, out[start:stop])


@compiled
def _begin(first: _Floats, origin: _Doubles, sums: _Doubles, squares: _Doubles) -> None:
    for i in range(len(first)):
        origin[i] = first[i]
        sums[i] = 0.0
        squares[i] = 0.0


@compiled
def _add_moments(source: _Floats, origin: _Doubles, sums: _Doubles, squares: _Doubles) -> None:
    for i in range(len(source)):
        difference = np.float64(source[i]) - origin[i]
        sums[i] += difference
        squares[i] += difference * difference


@compiled
def _end(
    sums: _Doubles, squares: _Doubles, square_scale: float, sum_scale: float, out: _Floats
) -> None:
    for i in range(len(out)):
        variance = squares[i] * square_scale - sum_scale * sums[i] * sums[i]
        out[i] = np.float32(max(variance, 0.0))


@compiled
def _differences(pivot: _Floats, sources: _Floats, out: _Floats) -> None:
    for k in range(len(sources)):
        _subtract(sources[k], pivot, out[k])


@compiled
def _subtract(values: _Floats, others: _Floats, out: _Floats) -> None:
    for i in range(len(values)):
        out[i] = values[i] - others[i]


@compiled
def _survivors(bits: _Bits, patterns: _Bits, n_equal: NDArray[np.int64], out: _Flags) -> None:
    n = bits.shape[1]
    for k in range(len(bits)):
        n_tied, n_upper = n_equal[0, k], n_equal[1, k]
        first, second = min(n_tied, n_upper), max(n_tied, n_upper)
        for start, stop in ((0, first), (first, second), (second, n)):
            low = patterns[0, k] + np.int32(start >= n_tied)
            high = patterns[1, k] + np.int32(start >= n_upper)
            _between(bits[k, start:stop], low, high, out[k, start:stop])


@compiled
def _between(bits: _Bits, low: np.int32, high: np.int32, out: _Flags) -> None:
    """Mark patterns of magnitudes from ``low`` to below ``high``."""
    for i in range(len(bits)):
        magnitude = np.int32(bits[i] & _MAGNITUDE)
        out[i] = (magnitude >= low) & (magnitude < high)


@compiled
def _count(bits: _Bits, ranges: _Bits, out: _Bits, counts: NDArray[np.int64]) -> None:
    """Count in runs, for all ranges of a row before the next run is read."""
    flags = np.zeros(_RUN, dtype=np.int32)
    for k in range(len(bits)):
        for start in range(0, bits.shape[1], _RUN):
            run = bits[k, start : start + _RUN]
            for r in range(ranges.shape[1]):
                low, size, guess = ranges[k, r, 0], ranges[k, r, 1], ranges[k, r, 2]
                above, guessed = _tally(run, low, size, guess, flags)
                counts[k, r, 0] += above
                counts[k, r, 1] += guessed
                n_inside = counts[k, r, 2]
                counts[k, r, 2] += _gather(run, low, flags, out[k, r, n_inside:])


@compiled
def _tally(
    bits: _Bits, low: np.int32, size: np.int32, guess: np.int32, flags: _Bits
) -> tuple[np.int32, np.int32]:
    """Count patterns and flag those to gather; flags past the last pattern are cleared.

    Sums of 32-bit numbers are of 64 bits in numba, which halves what a vector holds: they are cast.
    """
    above, guessed = np.int32(0), np.int32(0)
    for i in range(len(bits)):
        place = np.int32(np.int32(bits[i] & _MAGNITUDE) - low)
        is_above, is_guess = np.int32(place >= size), np.int32(place == guess)
        above = np.int32(above + is_above)
        guessed = np.int32(guessed + is_guess)
        flags[i] = np.int32(np.int32(place >= np.int32(0)) - is_above) - is_guess
    flags[len(bits) :] = 0
    return above, guessed


@compiled
def _gather(bits: _Bits, low: np.int32, flags: _Bits, out: _Bits) -> int:
    """Gather the flagged patterns: few, so that many flags are tested at once, as words."""
    words = flags.view(np.uint64)
    n_gathered = 0
    for first in range(0, _RUN // 2, _WORDS):
        flagged = np.uint64(0)
        for place in range(_WORDS):
            flagged |= words[first + place]
        if flagged:
            for i in range(2 * first, 2 * first + 2 * _WORDS):
                if flags[i]:
                    out[n_gathered] = np.int32(bits[i] & _MAGNITUDE) - low
                    n_gathered += 1
    return n_gathered
