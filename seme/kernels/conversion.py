"""Upcast bfloat16 to float32 and check finiteness, in one pass.

What numba computes of 32-bit numbers has 64 bits, which halves what a vector holds: it is cast.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled, flat, half_patterns

_Words = NDArray[np.uint32]
_Halves = NDArray[np.uint16]
_INFINITE = 0x7F800000
"""Bit pattern of infinity; finite magnitudes have smaller ones, NaN larger."""

Patterns = tuple[_Halves, ...]
"""Bit patterns of the bfloat16 numbers of several models, 1-D each."""


def bit_patterns(values: Sequence[Tensor]) -> Patterns:
    """View bfloat16 tensors, 1-D and contiguous, as bit patterns."""
    return tuple(half_patterns(one) for one in values)


def upcast(patterns: Patterns, start: int, stop: int) -> tuple[Tensor, list[bool]]:
    """Convert the bfloat16 numbers [start, stop) of every model to float32.

    Returns:
        One row per model; and, per model, whether all of them are finite.
    """
    words = np.empty((len(patterns), stop - start), dtype=np.uint32)
    largest = np.empty(len(patterns), dtype=np.uint32)
    _upcast(patterns, start, words, largest)
    rows = torch.from_numpy(words.view(np.float32))
    return rows, [number < _INFINITE for number in largest.tolist()]


def is_finite(values: Tensor) -> bool:
    """Check that float32 numbers hold neither NaN nor an infinity."""
    return bool(_largest(flat(values).view(np.uint32)) < _INFINITE)


@compiled
def _upcast(patterns: Patterns, start: int, out: _Words, largest: _Words) -> None:
    n = out.shape[1]
    for k in range(len(patterns)):
        largest[k] = _upcast_row(patterns[k][start : start + n], out[k])


@compiled
def _upcast_row(halves: _Halves, out: _Words) -> np.uint32:
    largest = np.uint32(0)
    for i in range(len(halves)):
        word = np.uint32(np.uint32(halves[i]) << np.uint32(16))
        out[i] = word
        largest = np.uint32(max(largest, np.uint32(word & np.uint32(0x7FFFFFFF))))
    return largest


@compiled
def _largest(words: _Words) -> np.uint32:
    largest = np.uint32(0)
    for i in range(len(words)):
        largest = np.uint32(max(largest, np.uint32(words[i] & np.uint32(0x7FFFFFFF))))
    return largest
