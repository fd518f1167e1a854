"""Top-k masks by magnitude, in a tensor or over a model, with deterministic tie-breaking.

Thresholds come from :mod:`seme.topk_threshold`; elements at the threshold are kept by flat index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from seme.checks import check_share
from seme.kernels import selection as kernels
from seme.kernels.jit import use_numba
from seme.ranking_scores import RankingScores
from seme.topk_threshold import Threshold, find_thresholds, magnitude_bits

TrimTies = Literal["exact", "keep_all"]
"""``exact``: ties at the threshold are kept by index. ``keep_all``: all of them are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRule:
    """A top-k mask of one tensor in two numbers: a threshold, and an index that breaks ties."""

    threshold: float
    """Larger magnitudes survive, smaller do not."""
    cutoff: int
    """Magnitudes equal to the threshold survive at flat indices below this."""


def survivors(
    rules: Sequence[KeepRule], values: Tensor, start: int, without: Sequence[KeepRule] = ()
) -> Tensor:
    """Compute the mask of consecutive elements.

    Args:
        rules: One per row.
        values: float32 ranking scores, (len(rules), n).
        start: Flat index of the first element.
        without: What other rules keep does not survive: one per row, that keeps no more than
            its rule in ``rules``; none if empty.

    Returns:
        Booleans, (len(rules), n).
    """
    thresholds, n_tied = _at(rules, start, values.shape[1])
    limits, n_at_limit = _at(without, start, values.shape[1])
    if use_numba(values.device):
        if not without:
            return kernels.survivors(values, thresholds, n_tied)
        return kernels.survivors(values, thresholds, n_tied, limits, n_at_limit)
    magnitudes = values.abs()
    kept = _kept(magnitudes, thresholds, n_tied)
    return kept & ~_kept(magnitudes, limits, n_at_limit) if without else kept


def _at(rules: Sequence[KeepRule], start: int, n: int) -> tuple[list[float], list[int]]:
    """Return thresholds, and of ``n`` elements the first that survive at them."""
    return (
        [rule.threshold for rule in rules],
        [min(max(rule.cutoff - start, 0), n) for rule in rules],
    )


def _kept(magnitudes: Tensor, thresholds: Sequence[float], n_tied: Sequence[int]) -> Tensor:
    kept = magnitudes > torch.tensor(thresholds, device=magnitudes.device).unsqueeze(1)
    for row, sizes, threshold, n in zip(kept, magnitudes, thresholds, n_tied, strict=True):
        row[:n] |= sizes[:n] == threshold
    return kept


class TopKMask:
    """The top-k masks of one tensor, block by block; without smaller ones where they are given."""

    def __init__(
        self,
        scores: RankingScores,
        rules: Sequence[KeepRule],
        *,
        without: Sequence[KeepRule] = (),
    ) -> None:
        """Compute the masks of cached scores at once; those of others when asked for.

        Args:
            scores: Ranking scores of the tensor.
            rules: One per row of the scores.
            without: As in :func:`survivors`.
        """
        self.rules = rules
        self.without = without
        self._score = scores.score
        masks = scores.map(self._mask) if scores.cached else []
        self._masks = {index * scores.block: mask for index, mask in enumerate(masks)}

    def at(self, pivot: Tensor, sources: Sequence[Tensor], start: int) -> Tensor:
        """Return the mask of a block.

        Args:
            pivot: The pivot's block, (n,).
            sources: The sources' blocks.
            start: Flat index of the first element.

        Returns:
            Booleans, (n_rows, n).
        """
        mask = self._masks.get(start)
        if mask is not None and mask.shape[1] == len(pivot):
            return mask
        return self._mask(self._score(pivot, sources), start)

    def _mask(self, values: Tensor, start: int) -> Tensor:
        return survivors(self.rules, values, start, self.without)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The top-k selection of one row of scores over all tensors."""

    rules: Mapping[str, KeepRule]
    """By tensor name."""
    threshold: float
    """The smallest magnitude that may survive; infinite when the share rounds to nothing."""
    share_kept: float
    """Share of all elements that survive, in [0, 1]."""


def select_largest(
    tensors: Sequence[RankingScores], share: float, trim_ties: TrimTies
) -> tuple[Selection, ...]:
    """Select, per row of scores, the elements of largest magnitude over all tensors.

    Args:
        tensors: In the order in which ties are broken, at least one, all with as many rows.
        share: Share of all elements that survives, in (0, 1].
        trim_ties: ``exact`` keeps ``round(share * n)`` elements, never a zero, ties going to
            the first; ``keep_all`` keeps every element not below the
            (floor(share * n) + 1)-th largest, zeros too, as the code of the TIES authors does.

    Returns:
        One selection per row; the same however the elements are cut into tensors.

    Raises:
        ValueError: If ``share`` is outside (0, 1].
    """
    check_share("share", share)
    (selections,) = _select(tensors, [share], trim_ties)
    return selections


def select_band(scores: RankingScores, share: float, outliers: float) -> TopKMask:
    """Select, per row of scores, the elements of largest magnitude but for the very largest.

    Args:
        scores: Of one tensor.
        share: Share of its elements that survives, before the outliers are left out, in [0, 1].
        outliers: Share left out, in [0, share].

    Returns:
        The masks: ``round(share * n) - round(outliers * n)`` elements, never a zero, ties going to
        the first.
    """
    largest, left_out = (
        [selection.rules[scores.name] for selection in selections]
        for selections in _select([scores], [share, outliers], "exact")
    )
    return TopKMask(scores, largest, without=left_out)


def _select(
    tensors: Sequence[RankingScores], shares: Sequence[float], trim_ties: TrimTies
) -> list[tuple[Selection, ...]]:
    """Select for several shares by the same passes; per share one selection per row."""
    n_total = sum(tensor.numel for tensor in tensors)
    ranks = [_rank(n_total, share, trim_ties) for share in shares]
    return [
        _selections(tensors, thresholds, rank, trim_ties)
        for rank, thresholds in zip(
            ranks, find_thresholds(tensors, ranks, n_total), strict=True
        )
    ]


def _selections(
    tensors: Sequence[RankingScores],
    thresholds: Sequence[Threshold],
    rank: int,
    trim_ties: TrimTies,
) -> tuple[Selection, ...]:
    n_total = sum(tensor.numel for tensor in tensors)
    n_tied_kept = [
        t.n_equal if trim_ties == "keep_all" else t.n_equal_kept(rank) for t in thresholds
    ]
    cutoffs = _cutoffs(tensors, thresholds, n_tied_kept)
    return tuple(
        Selection(
            rules={
                tensor.name: KeepRule(threshold=t.value, cutoff=cutoff)
                for tensor, cutoff in zip(tensors, row, strict=True)
            },
            threshold=t.value,
            share_kept=(t.n_above + n_kept) / max(n_total, 1),
        )
        for t, n_kept, row in zip(thresholds, n_tied_kept, cutoffs, strict=True)
    )


def _rank(n_total: int, share: float, trim_ties: TrimTies) -> int:
    """Count the elements that survive if no two are equal."""
    if trim_ties == "exact":
        return round(share * n_total)
    return min(int(share * n_total) + 1, n_total)


def _cutoffs(
    tensors: Sequence[RankingScores],
    thresholds: Sequence[Threshold],
    n_kept: Sequence[int],
) -> list[list[int]]:
    """Distribute the surviving ties: the first of each row, in the order of the tensors.

    Returns:
        Per row, one cutoff per tensor. Reads on only until the last tie that survives.
    """
    left = list(n_kept)
    is_cut = [0 < kept < t.n_equal for t, kept in zip(thresholds, n_kept, strict=True)]
    cutoffs: list[list[int]] = [[] for _ in thresholds]
    for index, tensor in enumerate(tensors):
        counted = None
        for row, (t, n) in enumerate(zip(thresholds, left, strict=True)):
            if not (is_cut[row] and n):
                cutoffs[row].append(tensor.numel if n else 0)
                continue
            known = t.n_equal_per_block
            if known is None and counted is None:
                counted = tensor.map(lambda values, _: _count_ties(values, thresholds))
            n_tied = known[index] if known else [counts[row] for counts in counted or ()]
            cutoffs[row].append(_cutoff(tensor, row, n_tied, n, t))
            left[row] = max(n - sum(n_tied), 0)
    return cutoffs


def _count_ties(values: Tensor, thresholds: Sequence[Threshold]) -> list[int]:
    return [
        int(np.count_nonzero(magnitude_bits(row) == t.bits))
        for row, t in zip(values, thresholds, strict=True)
    ]


def _cutoff(
    tensor: RankingScores,
    row: int,
    n_tied: Sequence[int],
    n_kept: int,
    threshold: Threshold,
) -> int:
    """Return the flat index after the last of ``n_kept`` ties, given the ties of each block."""
    for index, n in enumerate(n_tied):
        if n_kept < n:
            start = index * tensor.block
            stop = min(start + tensor.block, tensor.numel)
            (patterns,) = tensor.map(
                lambda values, _: magnitude_bits(values[row]), [(start, stop)]
            )
            ties = np.flatnonzero(patterns == threshold.bits)
            return start + int(ties[n_kept])
        n_kept -= n
    return tensor.numel
