"""Ranking scores, counts of magnitude patterns, and top-k masks of a block."""

from collections.abc import Sequence

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
"""Elements at a time, a multiple of eight."""
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


def survivors(values: Tensor, thresholds: Sequence[float], n_tied: Sequence[int]) -> Tensor:
    """Compute top-k masks: magnitudes above a threshold, or at it in the first places.

    Args:
        values: float32, (k, n).
        thresholds: One per row, non-negative float32 numbers.
        n_tied: Per row, the number of first elements that survive at the threshold too.

    Returns:
        Booleans, (k, n).
    """
    masks = torch.empty(values.shape, dtype=torch.bool)
    limits = np.array(thresholds, dtype=np.float32)
    _survivors(values.numpy(), limits, np.array(n_tied, dtype=np.int64), masks.numpy())
    return masks


def count(
    values: Tensor, lows: Sequence[int], sizes: Sequence[int], guesses: Sequence[int]
) -> list[tuple[int, int, _Bits]]:
    """Count magnitudes above a range of bit patterns, and gather those in it.

    Args:
        values: float32, (k, n).
        lows: The first pattern of each row's range.
        sizes: The number of patterns in it.
        guesses: An offset in the range, from 0, whose patterns are counted and not gathered.

    Returns:
        Per row: the number of magnitudes above the range; the number at the guess; the offsets
        in the range of all others in it.
    """
    bits = values.numpy().view(np.int32)
    ranges = np.array([lows, sizes, guesses], dtype=np.int32)
    offsets = np.empty(bits.shape, dtype=np.int32)
    counts = np.empty((len(bits), 3), dtype=np.int64)
    _count(bits, ranges, offsets, counts)
    return [
        (n_above, n_guessed, row[:n_inside].copy())
        for row, (n_above, n_guessed, n_inside) in zip(offsets, counts.tolist(), strict=True)
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
def _survivors(
    values: _Floats, thresholds: _Floats, n_tied: NDArray[np.int64], out: _Flags
) -> None:
    for k in range(len(values)):
        n = n_tied[k]
        _at_least(values[k, :n], thresholds[k], out[k, :n])
        _above(values[k, n:], thresholds[k], out[k, n:])


@compiled
def _above(values: _Floats, threshold: np.float32, out: _Flags) -> None:
    for i in range(len(values)):
        out[i] = abs(values[i]) > threshold


@compiled
def _at_least(values: _Floats, threshold: np.float32, out: _Flags) -> None:
    for i in range(len(values)):
        out[i] = abs(values[i]) >= threshold


@compiled
def _count(bits: _Bits, ranges: _Bits, out: _Bits, counts: NDArray[np.int64]) -> None:
    flags = np.zeros(_RUN, np.uint8)
    for k in range(len(bits)):
        low, size, guess = ranges[0, k], ranges[1, k], ranges[2, k]
        n_above, n_guessed, n_inside = 0, 0, 0
        for start in range(0, bits.shape[1], _RUN):
            run = bits[k, start : start + _RUN]
            above, guessed = _tally(run, low, size, guess, flags)
            n_above += int(above)
            n_guessed += int(guessed)
            n_inside += _gather(run, low, flags, out[k, n_inside:])
        counts[k, 0] = n_above
        counts[k, 1] = n_guessed
        counts[k, 2] = n_inside


@compiled
def _tally(
    bits: _Bits, low: np.int32, size: np.int32, guess: np.int32, flags: NDArray[np.uint8]
) -> tuple[np.int32, np.int32]:
    """Count patterns and flag those to gather; flags past the last pattern are cleared."""
    above, guessed = np.int32(0), np.int32(0)
    for i in range(len(bits)):
        place = np.int32(bits[i] & _MAGNITUDE) - low
        above += np.int32(place >= size)
        guessed += np.int32(place == guess)
        flags[i] = (np.uint32(place) < np.uint32(size)) & (place != guess)
    flags[len(bits) :] = 0
    return above, guessed


@compiled
def _gather(bits: _Bits, low: np.int32, flags: NDArray[np.uint8], out: _Bits) -> int:
    """Gather the flagged patterns: few, so eight flags are tested at once, as one word."""
    words = flags.view(np.uint64)
    n_gathered = 0
    for word in range(len(words)):
        if words[word]:
            for i in range(8 * word, 8 * word + 8):
                if flags[i]:
                    out[n_gathered] = np.int32(bits[i] & _MAGNITUDE) - low
                    n_gathered += 1
    return n_gathered
