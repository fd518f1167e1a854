"""Numbers of a tensor that are ranked: computed in every pass, or held where there is room (ours)."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.streaming import Block, OpenTensor, Span

Ranked = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""What is ranked of a block, given the pivot's and the sources': float32 without NaN, one number
per column and element, (n_columns, n)."""

MAGNITUDE = np.int32(0x7FFFFFFF)
"""What a float32 is without its sign."""

_T = TypeVar("_T")


def held_bytes(n_columns: int) -> int:
    """Bytes per element that holding takes.

    Every number and whether it survives; and while a threshold is found, all of one column.
    """
    return 5 * n_columns + 4


class Columns:
    """The numbers of one tensor, some per element, for passes over its blocks."""

    def __init__(
        self, tensor: OpenTensor, ranked: Ranked, n_columns: int, *, hold: bool = True
    ) -> None:
        """Compute them at once if they may be held; else read nothing yet.

        Args:
            tensor: Of the pivot and the sources.
            ranked: What of their blocks is ranked.
            n_columns: How many numbers that is per element.
            hold: Whether to hold them where there is room: room for one tensor at a time.
        """
        self.name = tensor.name
        self.numel = tensor.numel
        self.block = tensor.block
        """Elements per block."""
        self.ranked = ranked
        self.n_columns = n_columns
        self.held = hold and tensor.may_hold(held_bytes(n_columns) * tensor.numel)
        """Whether a pass over them reads no weights."""
        self.tensor = tensor
        self._values = tensor.map(self._of) if self.held else []

    def map(
        self,
        function: Callable[[Tensor, int], _T],
        only: Sequence[Span] | None = None,
        *,
        alone: bool = False,
    ) -> list[_T]:
        """Call a function for every block, on all cores.

        Args:
            function: Called with a block's numbers, (n_columns, n), and the index of its first
                element; from several threads at once.
            only: The runs to visit instead.
            alone: On the caller's core, while others work on other tensors.

        Returns:
            What it returned, in the order of the blocks.
        """
        if not self.held:
            return self.tensor.map(
                lambda block: function(self._of(block), block.start), only, alone=alone
            )
        spans = only
        if spans is None:
            starts = range(0, self.numel, self.block)
            spans = [(start, min(start + self.block, self.numel)) for start in starts]

        def visit(index: int) -> _T:
            return function(self._between(*spans[index]), spans[index][0])

        if alone:
            return [visit(index) for index in range(len(spans))]
        return self.tensor.models.side_by_side(visit, len(spans))

    def magnitudes(self, column: int) -> NDArray[np.int32]:
        """The patterns of one column's magnitudes, (numel,), in memory of their own.

        Only of a tensor whose numbers are held.
        """
        assert self.held, f"{self.name} is not held"
        found = np.empty(self.numel, dtype=np.int32)
        for index, values in enumerate(self._values):
            begin = index * self.block
            bits = values[column].numpy().view(np.int32)
            np.bitwise_and(bits, MAGNITUDE, out=found[begin : begin + len(bits)])
        return found

    def _of(self, block: Block) -> Tensor:
        return self.ranked(block.pivot, block.sources)

    def _between(self, start: int, stop: int) -> Tensor:
        """Held numbers of consecutive elements."""
        first, last = start // self.block, (stop - 1) // self.block
        begin = first * self.block
        if first == last:
            return self._values[first][:, start - begin : stop - begin]
        found = torch.cat(self._values[first : last + 1], dim=1)
        return found[:, start - begin : stop - begin]


def map_all(
    tensors: Sequence[Columns], function: Callable[[Tensor, int], _T]
) -> list[list[_T]]:
    """Call a function for every block of several tensors; see :meth:`seme.streaming.Models.by_size`.

    Args:
        tensors: At least one.
        function: As in :meth:`Columns.map`.

    Returns:
        Per tensor what :meth:`Columns.map` returns.
    """
    return tensors[0].tensor.models.by_size(
        [tensor.numel for tensor in tensors],
        lambda index: tensors[index].map(function),
        lambda index: tensors[index].map(function, alone=True),
    )
