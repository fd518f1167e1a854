"""Sums of squares in float64, added pairwise: in the same order on any CPU.

Rounding to bfloat16 is in this file because its error is measured in the same pass, with the
same loops, and no compiled loop calls one of another file.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled, flat, half_patterns, rows

_Floats = NDArray[np.float32]
_Doubles = NDArray[np.float64]
_Words = NDArray[np.uint32]
_Halves = NDArray[np.uint16]
_RUN = 1024
"""Elements at a time, a power of two."""


def squared_distance(values: Tensor, others: Tensor) -> float:
    """Sum the squared differences of float32 numbers."""
    return _squared_distance(flat(values), flat(others))


def energies(pivot: Tensor, sources: Sequence[Tensor], kept: Tensor) -> tuple[int, list[float]]:
    """Sum the squares of the kept elements of each float32 task vector.

    Returns:
        Number of kept elements, and one sum per source.
    """
    sums = np.zeros(len(sources))
    n_kept = _energies(flat(pivot), rows(sources), kept.reshape(-1).numpy(), sums)
    return n_kept, sums.tolist()


def round_merged(exact: Tensor, pivot: Tensor) -> tuple[Tensor, float, float]:
    """Round float32 numbers to bfloat16, ties to even; see :func:`seme.rounding.round_merged`.

    Returns:
        The rounded numbers, ``||rounded - exact||^2`` and ``||exact - pivot||^2``; the latter
        is not finite if any number is not.
    """
    rounded = torch.empty(exact.shape, dtype=torch.bfloat16)
    lost, changed = _round_merged(flat(exact), flat(pivot), half_patterns(rounded.view(-1)))
    return rounded, lost, changed


@compiled
def _squared_distance(values: _Floats, others: _Floats) -> float:
    squares = np.empty(_RUN)
    total = 0.0
    for start in range(0, len(values), _RUN):
        stop = start + _RUN
        _square_differences(values[start:stop], others[start:stop], squares)
        total += _folded(squares)
    return total


@compiled
def _square_differences(values: _Floats, others: _Floats, out: _Doubles) -> None:
    """Write squared differences, padded with zeros to the length of ``out``."""
    for i in range(len(values)):
        difference = np.float64(values[i]) - np.float64(others[i])
        out[i] = difference * difference
    out[len(values) :] = 0.0


@compiled
def _energies(pivot: _Floats, sources: _Floats, kept: NDArray[np.bool_], out: _Doubles) -> int:
    squares = np.empty(_RUN)
    n_kept = 0
    for start in range(0, len(pivot), _RUN):
        stop = start + _RUN
        n_kept += _n_true(kept[start:stop])
        for k in range(len(sources)):
            _square_differences(sources[k, start:stop], pivot[start:stop], squares)
            _mask(kept[start:stop], squares)
            out[k] += _folded(squares)
    return n_kept


@compiled
def _n_true(flags: NDArray[np.bool_]) -> int:
    n_true = 0
    for i in range(len(flags)):
        n_true += flags[i]
    return n_true


@compiled
def _mask(kept: NDArray[np.bool_], values: _Doubles) -> None:
    for i in range(len(kept)):
        values[i] = values[i] if kept[i] else 0.0


@compiled
def _folded(values: _Doubles) -> float:
    """Sum numbers pairwise, overwriting them; their count is a power of two."""
    width = len(values) // 2
    while width >= 8:
        _fold(values[:width], values[width : 2 * width])
        width //= 2
    total = 0.0
    for i in range(2 * width):
        total += values[i]
    return total


@compiled
def _fold(values: _Doubles, others: _Doubles) -> None:
    for i in range(len(values)):
        values[i] += others[i]


@compiled
def _round_merged(exact: _Floats, pivot: _Floats, out: _Halves) -> tuple[float, float]:
    upcast, squares = np.empty(_RUN, np.float32), np.empty(_RUN)
    lost, changed = 0.0, 0.0
    for start in range(0, len(exact), _RUN):
        stop = min(start + _RUN, len(exact))
        run, rounded = exact[start:stop], upcast[: stop - start]
        _square_differences(run, pivot[start:stop], squares)
        changed += _folded(squares)
        _round(run.view(np.uint32), out[start:stop], rounded.view(np.uint32))
        _square_differences(rounded, run, squares)
        lost += _folded(squares)
    return lost, changed


@compiled
def _round(words: _Words, out: _Halves, upcast: _Words) -> None:
    """Round float32 patterns to bfloat16, and write those as float32 patterns again."""
    for i in range(len(words)):
        odd = (words[i] >> np.uint32(16)) & np.uint32(1)
        half = (words[i] + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        out[i] = half
        upcast[i] = half << np.uint32(16)
