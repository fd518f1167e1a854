"""Rotary position pairs of two models: which belong together, and the turns they leave free.

Ours (the paper, https://arxiv.org/abs/2505.20144, does not look inside a head). Under RoPE pair i
of a head, dimensions (i, i + n_pairs), turns by position times its angular frequency. Only
rotations of a pair commute with that, so that the inner basis of queries and keys is free up to
one rotation per pair.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seme.alignment.assignment import assign

SAME_FREQUENCY = 1e-6
"""Relative difference up to which two angular frequencies are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairMatch:
    """Which rotary pair of the source stands at each pair of the pivot."""

    index: tuple[int, ...]
    """Per pivot pair the source pair, -1 where the source has none left."""
    n_source: int
    """Pairs of the source."""
    exact: bool
    """Every source pair stands at a pivot pair of its own frequency: none moved, none lost."""

    def in_order(self) -> "PairMatch":
        """Leave every pair where it is, be its frequency the pivot's or not."""
        index = tuple(range(len(self.index)))
        return replace(self, index=index, exact=self.exact and self.index == index)

    @property
    def planes(self) -> Tensor:
        """(matched, 2) int64: the two dimensions in a pivot head of each pair matched."""
        places = torch.tensor([i for i, pair in enumerate(self.index) if pair >= 0]).long()
        return torch.stack([places, places + len(self.index)], dim=1)

    @property
    def source_planes(self) -> Tensor:
        """(matched, 2) int64: the two dimensions in a source head, in the same order."""
        pairs = torch.tensor([pair for pair in self.index if pair >= 0]).long()
        return torch.stack([pairs, pairs + self.n_source], dim=1)


def pair_frequencies(pivot: Sequence[float], source: Sequence[float]) -> PairMatch:
    """Find the source pair for each pivot pair: the same frequency, else the nearest unused.

    "Nearest" is the assignment of the remaining pairs with the least squared distance in log
    frequency, which keeps them in order. Heads of 64 and 128 dimensions with one theta: source
    pair i stands at pivot pair 2 i, exactly.

    Args:
        pivot: Angular frequency of each of the pivot's pairs, positive; empty without RoPE.
        source: The same of the source.

    Raises:
        ValueError: If a frequency is not positive.
    """
    for owner, frequencies in (("pivot", pivot), ("source", source)):
        if any(not 0 < frequency < math.inf for frequency in frequencies):
            raise ValueError(
                f"rotary frequencies must be positive and finite, the {owner} has {frequencies}"
            )
    index = _same_frequency(pivot, source)
    exact = sum(pair >= 0 for pair in index) == len(source)
    if not exact:
        _fill_with_nearest(index, pivot, source)
    return PairMatch(index=tuple(index), n_source=len(source), exact=exact)


def pairwise_rotation(cross: Tensor) -> Tensor:
    """Find the rotation R of each pair's plane for which tr(R^T cross) is greatest.

    A reflection may fit better but is not allowed: it reverses the sense in which the pair turns
    with position.

    Args:
        cross: (pairs, 2, 2), pivot rows against source rows: sum of a_pivot a_source^T.

    Returns:
        (pairs, 2, 2) of the dtype of ``cross``; the identity where no turn is better.
    """
    angle = torch.atan2(cross[:, 1, 0] - cross[:, 0, 1], cross[:, 0, 0] + cross[:, 1, 1])
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([cosine, -sine, sine, cosine], dim=1).view(-1, 2, 2)


def _same_frequency(pivot: Sequence[float], source: Sequence[float]) -> list[int]:
    """Match equal frequencies, each source pair once; -1 elsewhere."""
    unused = list(range(len(source)))
    index = []
    for frequency in pivot:
        found = (
            i for i in unused if math.isclose(source[i], frequency, rel_tol=SAME_FREQUENCY)
        )
        pair = next(found, -1)
        if pair >= 0:
            unused.remove(pair)
        index.append(pair)
    return index


def _fill_with_nearest(
    index: list[int], pivot: Sequence[float], source: Sequence[float]
) -> None:
    """Give the pivot pairs still at -1 the source pairs still unused."""
    empty = [i for i, pair in enumerate(index) if pair < 0]
    unused = sorted(set(range(len(source))) - set(index))
    log_pivot = torch.tensor([math.log(pivot[i]) for i in empty], dtype=torch.float64)
    log_source = torch.tensor([math.log(source[i]) for i in unused], dtype=torch.float64)
    chosen = assign(-((log_pivot[:, None] - log_source) ** 2)).tolist()
    for place, pick in zip(empty, chosen, strict=True):
        index[place] = unused[pick] if pick >= 0 else -1
