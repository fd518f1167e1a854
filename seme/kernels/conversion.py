"""bfloat16 to float32 and back, and what that does to the numbers, in one reading each."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled, flat

_Words = NDArray[np.uint32]
_Halves = NDArray[np.uint16]


def widen(values: Tensor, out: Tensor) -> bool:
    """Write bfloat16 numbers into float32 memory of the same size; both 1-D, contiguous.

    Returns:
        Whether none of them is NaN or an infinity.
    """
    return bool(_widen(_halves(values), out.numpy().view(np.uint32)) < 0x7F800000)


def is_finite(values: Tensor) -> bool:
    """Tell whether float32 numbers hold neither NaN nor an infinity."""
    return bool(_largest(flat(values).view(np.uint32)) < 0x7F800000)


def round_to_bfloat16(values: Tensor) -> tuple[Tensor, Tensor]:
    """Round float32 numbers without NaN to bfloat16, ties to even.

    Returns:
        The rounded numbers of the same shape, and the same again in float32.
    """
    rounded = torch.empty(values.shape, dtype=torch.bfloat16)
    again = torch.empty(values.shape)
    _round(flat(values).view(np.uint32), _halves(rounded.view(-1)), flat(again).view(np.uint32))
    return rounded, again


def _halves(values: Tensor) -> _Halves:
    """See bfloat16 numbers as the patterns of bits they are; 1-D."""
    seen: _Halves = values.view(torch.uint16).numpy()
    return seen


@compiled
def _widen(halves: _Halves, out: _Words) -> np.uint32:
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
def _round(words: _Words, out: _Halves, again: _Words) -> None:
    for i in range(len(words)):
        odd = (words[i] >> np.uint32(16)) & np.uint32(1)
        half = (words[i] + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        out[i] = half
        again[i] = half << np.uint32(16)
