"""What survives of a column of numbers: the largest magnitudes, in a tensor or over a model.

The threshold comes from :mod:`seme.topk`; ties at it are cut here, by index (ours).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from seme.checks import check_share
from seme.columns import Columns
from seme.kernels import selection as kernels
from seme.kernels.jit import serve
from seme.topk import Threshold, bits_of, thresholds_of

TrimTies = Literal["exact", "keep_all"]
"""``exact``: ties at the threshold go by index. ``keep_all``: every one of them is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRule:
    """Which elements of one tensor survive: a threshold, and an index that breaks its ties."""

    threshold: float
    """Larger magnitudes survive, smaller do not."""
    cutoff: int
    """Magnitudes equal to the threshold survive at flat indices below this."""


def survivors(rules: Sequence[KeepRule], values: Tensor, start: int) -> Tensor:
    """Tell which of consecutive elements survive.

    Args:
        rules: One per row.
        values: float32, (len(rules), n).
        start: Flat index in the tensor of the first of them.

    Returns:
        Booleans, (len(rules), n).
    """
    thresholds = [rule.threshold for rule in rules]
    n_tied = [min(max(rule.cutoff - start, 0), values.shape[1]) for rule in rules]
    if serve(values.device):
        return kernels.survivors(values, thresholds, n_tied)
    magnitudes = values.abs()
    kept = magnitudes > torch.tensor(thresholds, device=values.device).unsqueeze(1)
    for row, sizes, rule, n in zip(kept, magnitudes, rules, n_tied, strict=True):
        row[:n] |= sizes[:n] == rule.threshold
    return kept


class Kept:
    """Which elements of one tensor survive, block by block."""

    def __init__(self, columns: Columns, rules: Sequence[KeepRule]) -> None:
        """Apply the rules at once where the columns are held; else to every block asked for.

        Args:
            columns: What the rules are about.
            rules: One per column.
        """
        self.rules = rules
        self._ranked = columns.ranked
        found = columns.map(self._survivors) if columns.held else []
        self._found = {index * columns.block: flags for index, flags in enumerate(found)}

    def at(self, pivot: Tensor, sources: Sequence[Tensor], start: int) -> Tensor:
        """Tell which elements of a block survive.

        Args:
            pivot: The pivot's block, (n,).
            sources: The sources'.
            start: Flat index in the tensor of its first element.

        Returns:
            Booleans, (n_columns, n).
        """
        flags = self._found.get(start)
        if flags is not None and flags.shape[1] == len(pivot):
            return flags
        return self._survivors(self._ranked(pivot, sources), start)

    def _survivors(self, values: Tensor, start: int) -> Tensor:
        return survivors(self.rules, values, start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What survives in one column of the tensors."""

    rules: Mapping[str, KeepRule]
    """Tensor name to its rule."""
    threshold: float
    """The smallest magnitude that may survive; infinite when the share rounds to nothing."""
    share_kept: float
    """Share of all elements that survive, in [0, 1]."""


def select_largest(
    tensors: Sequence[Columns], share: float, trim_ties: TrimTies
) -> tuple[Selection, ...]:
    """Find, per column, the elements of largest magnitude over all tensors.

    Args:
        tensors: In the order in which ties are broken, at least one, all with as many columns.
        share: Share of all elements of a column that survives, in (0, 1].
        trim_ties: ``exact`` keeps ``round(share * n)`` elements, never a zero, ties going to
            the first; ``keep_all`` keeps every element not below the
            (floor(share * n) + 1)-th largest, zeros too, as the code of the TIES authors does.

    Returns:
        One selection per column; the same however the elements are cut into tensors.

    Raises:
        ValueError: If ``share`` is outside (0, 1].
    """
    check_share("share", share)
    n_total = sum(tensor.numel for tensor in tensors)
    rank = _rank(n_total, share, trim_ties)
    found = thresholds_of(tensors, rank, n_total)
    n_kept = [t.n_equal if trim_ties == "keep_all" else t.n_kept(rank) for t in found]
    cutoffs = _cutoffs(tensors, found, n_kept)
    return tuple(
        Selection(
            rules={
                tensor.name: KeepRule(threshold=t.value, cutoff=cutoff)
                for tensor, cutoff in zip(tensors, of_column, strict=True)
            },
            threshold=t.value,
            share_kept=(t.n_above + kept) / max(n_total, 1),
        )
        for t, kept, of_column in zip(found, n_kept, cutoffs, strict=True)
    )


def _rank(n_total: int, share: float, trim_ties: TrimTies) -> int:
    """Count the elements that survive if no two are equal."""
    if trim_ties == "exact":
        return round(share * n_total)
    return min(int(share * n_total) + 1, n_total)


def _cutoffs(
    tensors: Sequence[Columns],
    thresholds: Sequence[Threshold],
    n_kept: Sequence[int],
) -> list[list[int]]:
    """Share out the surviving ties: the first of each column, in the order of the tensors.

    Returns:
        Per column, one cutoff per tensor. Reads on only until the last tie that survives.
    """
    left = list(n_kept)
    cut = [0 < kept < t.n_equal for t, kept in zip(thresholds, n_kept, strict=True)]
    cutoffs: list[list[int]] = [[] for _ in thresholds]
    for index, tensor in enumerate(tensors):
        counted = None
        for column, (t, n) in enumerate(zip(thresholds, left, strict=True)):
            if not (cut[column] and n):
                cutoffs[column].append(tensor.numel if n else 0)
                continue
            if t.ties is None and counted is None:
                counted = tensor.map(lambda values, _: _n_tied(values, thresholds))
            of_blocks = t.ties[index] if t.ties else [c[column] for c in counted or ()]
            cutoffs[column].append(_cutoff(tensor, column, of_blocks, n, t))
            left[column] = max(n - sum(of_blocks), 0)
    return cutoffs


def _n_tied(values: Tensor, thresholds: Sequence[Threshold]) -> list[int]:
    return [
        int(np.count_nonzero(bits_of(row) == t.bits))
        for row, t in zip(values, thresholds, strict=True)
    ]


def _cutoff(
    tensor: Columns,
    column: int,
    n_tied: Sequence[int],
    n_kept: int,
    threshold: Threshold,
) -> int:
    """Find the flat index behind the last of ``n_kept`` ties, given how many each block has."""
    for index, n in enumerate(n_tied):
        if n_kept < n:
            start = index * tensor.block
            stop = min(start + tensor.block, tensor.numel)
            (patterns,) = tensor.map(lambda values, _: bits_of(values[column]), [(start, stop)])
            ties = np.flatnonzero(patterns == threshold.bits)
            return start + int(ties[n_kept])
        n_kept -= n
    return tensor.numel
