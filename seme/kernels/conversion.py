"""bfloat16 to float32, and whether all numbers are finite, in one reading."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled, flat, half_patterns

_Words = NDArray[np.uint32]
_Halves = NDArray[np.uint16]
_INFINITE = 0x7F800000
"""The pattern of the first magnitude that is no number."""


Halves = tuple[NDArray[np.uint16], ...]
"""bfloat16 numbers of several models as the patterns of bits they are; 1-D each."""


def halves_of(values: Sequence[Tensor]) -> Halves:
    """See bfloat16 tensors, 1-D and contiguous, as patterns of bits."""
    return tuple(half_patterns(one) for one in values)


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
