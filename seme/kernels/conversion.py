"""bfloat16 to float32 and back, and what that does to the numbers, in one reading each."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled, flat
from seme.kernels.norms import RUN, folded, square_differences

_Floats = NDArray[np.float32]
_Words = NDArray[np.uint32]
_Halves = NDArray[np.uint16]
_INFINITE = 0x7F800000
"""The pattern of the first magnitude that is no number."""


Halves = tuple[NDArray[np.uint16], ...]
"""bfloat16 numbers of several models as the patterns of bits they are; 1-D each."""


def halves_of(values: Sequence[Tensor]) -> Halves:
    """See bfloat16 tensors, 1-D and contiguous, as patterns of bits."""
    return tuple(_halves(one) for one in values)


def widen(halves: Halves, start: int, stop: int) -> tuple[Tensor, list[bool]]:
    """Convert the bfloat16 numbers [start, stop) of every model to float32.

    Returns:
        One row per model; and per model whether none of the numbers is NaN or an infinity.
    """
    words = np.empty((len(halves), stop - start), dtype=np.uint32)
    largest = np.empty(len(halves), dtype=np.uint32)
    _widen(halves, start, words, largest)
    rows = torch.from_numpy(words.view(np.float32))
    return rows, [number < _INFINITE for number in largest.tolist()]


def is_finite(values: Tensor) -> bool:
    """Tell whether float32 numbers hold neither NaN nor an infinity."""
    return bool(_largest(flat(values).view(np.uint32)) < _INFINITE)


def round_merged(exact: Tensor, pivot: Tensor) -> tuple[Tensor, float, float]:
    """Round float32 numbers to bfloat16, ties to even; see :func:`seme.rounding.round_merged`.

    Returns:
        The rounded numbers, ``||rounded - exact||^2`` and ``||exact - pivot||^2``; the last is
        not finite where a number is not.
    """
    rounded = torch.empty(exact.shape, dtype=torch.bfloat16)
    lost, changed = _round_merged(flat(exact), flat(pivot), _halves(rounded.view(-1)))
    return rounded, lost, changed


def _halves(values: Tensor) -> _Halves:
    """See bfloat16 numbers as the patterns of bits they are; 1-D."""
    seen: _Halves = values.view(torch.uint16).numpy()
    return seen


@compiled
def _widen(halves: Halves, start: int, out: _Words, largest: _Words) -> None:
    n = out.shape[1]
    for k in range(len(halves)):
        largest[k] = _widen_row(halves[k][start : start + n], out[k])


@compiled
def _widen_row(halves: _Halves, out: _Words) -> np.uint32:
    largest = np.uint32(0)
    for i in range(len(halves)):
        word = np.uint32(halves[i]) << np.uint32(16)
        out[i] = word
        largest = max(largest, word & np.uint32(0x7FFFFFFF))
    return largest


@compiled
def _largest(words: _Words) -> np.uint32:
    largest = np.uint32(0)
    for i in range(len(words)):
        largest = max(largest, words[i] & np.uint32(0x7FFFFFFF))
    return largest


@compiled
def _round_merged(exact: _Floats, pivot: _Floats, out: _Halves) -> tuple[float, float]:
    again, squares = np.empty(RUN, np.float32), np.empty(RUN)
    lost, changed = 0.0, 0.0
    for start in range(0, len(exact), RUN):
        stop = min(start + RUN, len(exact))
        some, rounded = exact[start:stop], again[: stop - start]
        square_differences(some, pivot[start:stop], squares)
        changed += folded(squares)
        _round(some.view(np.uint32), out[start:stop], rounded.view(np.uint32))
        square_differences(rounded, some, squares)
        lost += folded(squares)
    return lost, changed


@compiled
def _round(words: _Words, out: _Halves, again: _Words) -> None:
    for i in range(len(words)):
        odd = (words[i] >> np.uint32(16)) & np.uint32(1)
        half = (words[i] + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        out[i] = half
        again[i] = half << np.uint32(16)
