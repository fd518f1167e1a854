"""Per-element ranking scores of a tensor, cached if the memory budget allows."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from seme.budget import cached_bytes
from seme.streaming import Block, OpenTensor, Span

_T = TypeVar("_T")

Score = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""Ranking scores of a block, given the pivot's and the sources' weights: float32 without NaN,
one score per ranking and element, (n_rows, n)."""


class RankingScores:
    """Per-element ranking scores of a tensor, cached if the memory budget allows."""

    def __init__(
        self, tensor: OpenTensor, score: Score, n_rows: int, *, cache: bool = True
    ) -> None:
        """Compute the scores if they may be cached; else read nothing yet.

        Args:
            tensor: The tensor, opened in the pivot and the sources.
            score: Computes the scores of a block.
            n_rows: Number of rankings, hence of scores per element.
            cache: Cache the scores if the budget allows; it allows one tensor at a time.
        """
        self.name, self.numel = tensor.name, tensor.numel
        self.block = tensor.block
        """Elements per block."""
        self.score = score
        self.n_rows = n_rows
        self.cached = cache and tensor.fits_the_cache(cached_bytes(n_rows) * tensor.numel)
        """A pass over cached scores reads no weights."""
        self.tensor = tensor
        self._scores = tensor.map(self._score) if self.cached else []

    def map(
        self,
        function: Callable[[Tensor, int], _T],
        spans: Sequence[Span] | None = None,
        *,
        one_thread: bool = False,
    ) -> list[_T]:
        """Call a function for the scores of every block; see :meth:`OpenTensor.map`.

        Args:
            function: Called with a block's scores, (n_rows, n), and the flat index of its first
                element; from several threads at once.
            spans: As in :meth:`OpenTensor.map`.
            one_thread: As in :meth:`OpenTensor.map`.
        """
        if not self.cached:
            return self.tensor.map(
                lambda block: function(self._score(block), block.start),
                spans,
                one_thread=one_thread,
            )
        places = self._blocks() if spans is None else spans

        def visit(index: int) -> _T:
            return function(self._slice(*places[index]), places[index][0])

        if one_thread:
            return [visit(index) for index in range(len(places))]
        return self.tensor.models.map(visit, len(places))

    def _blocks(self) -> list[Span]:
        starts = range(0, self.numel, self.block)
        return [(start, min(start + self.block, self.numel)) for start in starts]

    def _score(self, block: Block) -> Tensor:
        return self.score(block.pivot, block.sources)

    def _slice(self, start: int, stop: int) -> Tensor:
        """Return cached scores of consecutive elements."""
        first, last = start // self.block, (stop - 1) // self.block
        blocks = self._scores[first : last + 1]
        scores = blocks[0] if first == last else torch.cat(blocks, dim=1)
        return scores[:, start - first * self.block : stop - first * self.block]


def map_all(
    tensors: Sequence[RankingScores], function: Callable[[Tensor, int], _T]
) -> list[list[_T]]:
    """Return the results of :meth:`RankingScores.map` for each of several tensors, at least 1.

    Large tensors and small ones are processed as in :meth:`Models.map_tensors`.
    """
    return tensors[0].tensor.models.map_tensors(
        [tensor.numel for tensor in tensors],
        lambda index: tensors[index].map(function),
        lambda index: tensors[index].map(function, one_thread=True),
    )
