"""A weight with its low-rank change, computed a few rows at a time.

Hu et al., 2021, https://arxiv.org/abs/2106.09685, section 4.1: W + s B A, with the scaling s.
Liu et al., 2024, https://arxiv.org/abs/2402.09353, equation 5: DoRA, every output's row of that
sum scaled to a learned length.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seme.checkpoint.protocol import Readable

_BLOCK = 1 << 16
"""Elements computed at a time: 512 kB in float64 stay in a core's cache (ours, measured)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """The low-rank change of one weight."""

    down: Tensor
    """The paper's A, (rank, inputs)."""
    up: Tensor
    """The paper's B, (outputs, rank)."""
    magnitude: Tensor | None
    """DoRA's m, the length of every output's row, (outputs,); None without DoRA."""
    scaling: float
    transposed: bool
    """Whether the weight is stored (inputs, outputs)."""


class AdaptedTensor:
    """A weight with its change; implements :class:`seme.checkpoint.protocol.Readable`.

    Computed in float64 and rounded once to float32: neither the factors' dtype nor the base's
    takes anything from the change (PEFT rounds B A to the factors' dtype first). A range is cut
    out of blocks of rows that begin at multiples of one number: so the bits of an element depend
    neither on the range it is asked for in, nor on the number of threads.
    """

    def __init__(self, weight: Readable, factors: Factors) -> None:
        """Prepare the factors; nothing of the weight is read.

        Args:
            weight: The base's, (outputs, inputs), or (inputs, outputs) where ``transposed``,
                in any floating-point dtype.
            factors: Its change.
        """
        up, down = factors.up, factors.down
        self._weight = weight
        self._left, right = (down.T, up.T) if factors.transposed else (up, down)
        self._right = right.double() * factors.scaling
        self._magnitude = None if factors.magnitude is None else factors.magnitude.double()
        self._transposed = factors.transposed
        n_columns = self.shape[1]
        self._block = max(_BLOCK // max(n_columns, 1), 1) * max(n_columns, 1)

    @property
    def shape(self) -> tuple[int, int]:
        """The weight's, as it is stored."""
        return self._left.shape[0], self._right.shape[1]

    def read(self, start: int, stop: int) -> Tensor:
        """Compute the elements [start, stop) of the flat tensor, 1-D, in float32."""
        first = start // self._block * self._block
        last = min(-(-stop // self._block) * self._block, math.prod(self.shape))
        weight = self._weight.read(first, last)
        adapted = torch.empty(stop - start, dtype=torch.float32)
        for begin in range(first, last, self._block):
            low, high = max(begin, start), min(begin + self._block, stop)
            end = begin + self._block
            block = self._changed(weight[begin - first : end - first], begin).view(-1)
            adapted[low - start : high - start] = block[low - begin : high - begin]
        return adapted

    def _changed(self, weight: Tensor, begin: int) -> Tensor:
        """Change one block of rows, given flat and by the index of its first element."""
        block = self._sum(weight, begin)
        if self._magnitude is not None and self._transposed:
            block *= self._magnitude / self._lengths_of_columns
        elif self._magnitude is not None:
            row = begin // self.shape[1]
            lengths = _squares(block, axis=1).sqrt()
            block *= (self._magnitude[row : row + len(block)] / lengths).unsqueeze(1)
        return block

    def _sum(self, weight: Tensor, begin: int) -> Tensor:
        """Return W + s B A for one block of rows, (rows, columns) in float64."""
        rows = weight.view(-1, self.shape[1])
        row = begin // self.shape[1]
        return rows.double() + self._left[row : row + len(rows)].double() @ self._right

    @functools.cached_property
    def _lengths_of_columns(self) -> Tensor:
        """Measure what DoRA scales where outputs are columns: a pass over the whole weight."""
        squares = torch.zeros(self.shape[1], dtype=torch.float64)
        numel = math.prod(self.shape)
        for begin in range(0, numel, self._block):
            weight = self._weight.read(begin, min(begin + self._block, numel))
            squares += _squares(self._sum(weight, begin), axis=0)
        return squares.sqrt()


def _squares(block: Tensor, *, axis: int) -> Tensor:
    """Sum squares along an axis; with numpy, since torch's sums depend on the thread count."""
    return torch.from_numpy(np.square(block.numpy()).sum(axis=axis))
