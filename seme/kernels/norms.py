"""Sums of squares in float64, added pairwise: in an order that no processor changes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled, flat, rows

_Floats = NDArray[np.float32]
_Doubles = NDArray[np.float64]
RUN = 1024
"""Elements at a time, a power of two."""


def squared_distance(values: Tensor, others: Tensor) -> float:
    """Sum the squared differences of float32 numbers."""
    return _squared_distance(flat(values), flat(others))


def energies(pivot: Tensor, sources: Sequence[Tensor], kept: Tensor) -> tuple[int, list[float]]:
    """Sum the squares of the kept elements of each float32 task vector.

    Returns:
        How many elements are kept, and one sum per source.
    """
    found = np.zeros(len(sources))
    n_kept = _energies(flat(pivot), rows(sources), kept.reshape(-1).numpy(), found)
    return n_kept, found.tolist()


@compiled
def _squared_distance(values: _Floats, others: _Floats) -> float:
    squares = np.empty(RUN)
    total = 0.0
    for start in range(0, len(values), RUN):
        stop = start + RUN
        square_differences(values[start:stop], others[start:stop], squares)
        total += folded(squares)
    return total


@compiled
def square_differences(values: _Floats, others: _Floats, out: _Doubles) -> None:
    """Write squared differences, and zeros behind the last of them."""
    for i in range(len(values)):
        apart = np.float64(values[i]) - np.float64(others[i])
        out[i] = apart * apart
    out[len(values) :] = 0.0


@compiled
def _energies(pivot: _Floats, sources: _Floats, kept: NDArray[np.bool_], out: _Doubles) -> int:
    squares = np.empty(RUN)
    n_kept = 0
    for start in range(0, len(pivot), RUN):
        stop = start + RUN
        n_kept += _n_true(kept[start:stop])
        for k in range(len(sources)):
            square_differences(sources[k, start:stop], pivot[start:stop], squares)
            _mask(kept[start:stop], squares)
            out[k] += folded(squares)
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
def folded(values: _Doubles) -> float:
    """Sum a power of two of numbers, overwriting them."""
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
