"""What is ranked, counted and kept of the elements of a block, on a processor."""

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
    """The variance of at least two float32 numbers per element, times n^2 and a scale; float32.

    Exactly zero where all are equal.
    """
    found = torch.empty(sources[0].shape)
    _variance(rows(sources), scale, flat(found))
    return found


def differences(pivot: Tensor, sources: Sequence[Tensor]) -> Tensor:
    """Task vectors in float32, as rows: (n_sources, n)."""
    found = torch.empty((len(sources), pivot.numel()))
    _differences(flat(pivot), rows(sources), found.numpy())
    return found


def survivors(values: Tensor, thresholds: Sequence[float], n_tied: Sequence[int]) -> Tensor:
    """Tell which numbers have a magnitude above, or in the first places at, a threshold.

    Args:
        values: float32, (k, n).
        thresholds: Of each row, float32 numbers from 0 on.
        n_tied: Of how many numbers of each row, from the first on, those at the threshold count.

    Returns:
        Booleans, (k, n).
    """
    found = torch.empty(values.shape, dtype=torch.bool)
    limits = np.array(thresholds, dtype=np.float32)
    _survivors(values.numpy(), limits, np.array(n_tied, dtype=np.int64), found.numpy())
    return found


def count(
    values: Tensor, lows: Sequence[int], sizes: Sequence[int], guesses: Sequence[int]
) -> list[tuple[int, int, _Bits]]:
    """Count magnitudes above a range of patterns, and find those in it.

    Args:
        values: float32, (k, n).
        lows: The first pattern of each row's range.
        sizes: How many patterns it has.
        guesses: A place in the range, from 0, whose patterns are counted only.

    Returns:
        Per row: how many lie above the range; how many are the guess; the places in the range
        of all others that lie in it.
    """
    bits = values.numpy().view(np.int32)
    ranges = np.array([lows, sizes, guesses], dtype=np.int32)
    found = np.empty(bits.shape, dtype=np.int32)
    counted = np.empty((len(bits), 3), dtype=np.int64)
    _count(bits, ranges, found, counted)
    return [
        (n_above, n_guessed, row[:n_found].copy())
        for row, (n_above, n_guessed, n_found) in zip(found, counted.tolist(), strict=True)
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
        apart = np.float64(source[i]) - origin[i]
        sums[i] += apart
        squares[i] += apart * apart


@compiled
def _end(
    sums: _Doubles, squares: _Doubles, of_squares: float, of_sums: float, out: _Floats
) -> None:
    for i in range(len(out)):
        found = squares[i] * of_squares - of_sums * sums[i] * sums[i]
        out[i] = np.float32(max(found, 0.0))


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
def _count(bits: _Bits, ranges: _Bits, out: _Bits, counted: NDArray[np.int64]) -> None:
    flags = np.zeros(_RUN, np.uint8)
    for k in range(len(bits)):
        low, size, guess = ranges[0, k], ranges[1, k], ranges[2, k]
        n_above, n_guessed, n_found = 0, 0, 0
        for start in range(0, bits.shape[1], _RUN):
            some = bits[k, start : start + _RUN]
            above, guessed = _tally(some, low, size, guess, flags)
            n_above += int(above)
            n_guessed += int(guessed)
            n_found += _gather(some, low, flags, out[k, n_found:])
        counted[k, 0] = n_above
        counted[k, 1] = n_guessed
        counted[k, 2] = n_found


@compiled
def _tally(
    bits: _Bits, low: np.int32, size: np.int32, guess: np.int32, flags: NDArray[np.uint8]
) -> tuple[np.int32, np.int32]:
    """Count, and flag what is to be gathered; flags behind the patterns are cleared."""
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
    """Find the flagged: few, so that eight flags are looked at as one word first."""
    words = flags.view(np.uint64)
    n_found = 0
    for word in range(len(words)):
        if words[word]:
            for i in range(8 * word, 8 * word + 8):
                if flags[i]:
                    out[n_found] = np.int32(bits[i] & _MAGNITUDE) - low
                    n_found += 1
    return n_found
