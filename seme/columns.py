"""Numbers of a tensor that are ranked: computed in every pass, or held where there is room (ours)."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from seme.streaming import Block, OpenTensor

Ranked = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""What is ranked of a block, given the pivot's and the sources': float32 without NaN, one number
per column and element, (n_columns, n)."""

HELD_BYTES = 5
"""Per number held: itself, and whether it survives."""

_T = TypeVar("_T")


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
        self.held = hold and tensor.may_hold(HELD_BYTES * n_columns * tensor.numel)
        """Whether a pass over them reads no weights."""
        self._tensor = tensor
        self._values = tensor.map(self._of) if self.held else []

    def map(
        self,
        function: Callable[[Tensor, int], _T],
        only: Sequence[tuple[int, int]] | None = None,
    ) -> list[_T]:
        """Call a function for every block, on all cores.

        Args:
            function: Called with a block's numbers, (n_columns, n), and the index of its first
                element; from several threads at once.
            only: First element and the one behind the last of the runs to visit instead.

        Returns:
            What it returned, in the order of the blocks.
        """
        if not self.held:
            return self._tensor.map(lambda block: function(self._of(block), block.start), only)
        spans = only
        if spans is None:
            starts = range(0, self.numel, self.block)
            spans = [(start, min(start + self.block, self.numel)) for start in starts]
        return self._tensor.workers.map(
            lambda index: function(self._between(*spans[index]), spans[index][0]), len(spans)
        )

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
