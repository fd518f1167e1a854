"""Step-down maxT p-values of all pairs of runs: each against the maximum over smaller statistics.

Westfall and Young, Resampling-Based Multiple Testing, 1993, algorithm 4.1. A pair's p-value is the
share of sign patterns in which its statistic, or one of a pair with a smaller observed statistic,
reaches its own. Few do: only statistics that reach what is needed are listed, pattern by pattern,
found by the largest difference of each pair in a block of patterns.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from eval.statistics.samples import Array

_ROUNDING = 1e-4
"""Relative rounding of a float32 statistic: this close to the observed one, it counts."""
_BLOCK = 256
"""Sign patterns in a block: in most, no statistic of a pair reaches what is needed (measured)."""
_MOST_GATHERED = 2**22
"""Statistics computed at once, for memory."""
_STEP = 0.25
"""By so much the statistic above which p-values are computed is lowered, in standard errors."""
_PILOT = 4 * _BLOCK
"""Sign patterns that the first choice of it is made with."""

_Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """All pairs of runs, by rising observed statistic."""

    first: _Places
    second: _Places
    scales: NDArray[np.float32]
    """One over the standard errors."""
    needed: NDArray[np.float32]
    """What a flipped statistic must reach, rising."""
    flat: _Places
    """Place of each pair in the triangle above the diagonal, row by row."""
    negligible: float
    """Differences below count as none."""

    @property
    def n_certain(self) -> int:
        """Pairs that every sign pattern reaches, the first ones."""
        return int(np.searchsorted(self.needed, 0.0, side="right"))


def step_down_p_values(
    sums: NDArray[np.float32],
    differences: Array,
    scales: Array,
    *,
    negligible: float,
    up_to: float = 1.0,
) -> Array:
    """Compute the adjusted p-values of all pairs.

    Args:
        sums: Sums with flipped signs, shape (n_runs, n_resamples).
        differences: Observed, absolute, shape (n_runs, n_runs).
        scales: One over the standard errors, shape (n_runs, n_runs).
        negligible: Smallest difference that counts.
        up_to: Larger p-values are given as 1; the smaller this is, the less is computed.

    Returns:
        Symmetric, 1 on the diagonal, shape (n_runs, n_runs).
    """
    n_runs, n_resamples = sums.shape
    family = _family(differences, scales, negligible)
    p_values = np.ones((n_runs, n_runs))
    if n_runs < 2:
        return p_values
    begin, reached = _reached_from(family, sums, up_to)
    from_largest = np.maximum.accumulate(reached[::-1] + 1) / (n_resamples + 1)
    adjusted = np.ones(len(family.needed))
    adjusted[begin:] = from_largest[::-1]
    adjusted[adjusted > up_to] = 1.0
    p_values[family.first, family.second] = adjusted
    return np.minimum(p_values, p_values.T)


def _family(differences: Array, scales: Array, negligible: float) -> _Family:
    pairs = np.triu_indices(len(differences), 1)
    observed = np.where(differences < negligible, 0.0, differences * scales)[pairs]
    order = np.argsort(observed)
    return _Family(
        first=pairs[0][order],
        second=pairs[1][order],
        scales=scales[pairs][order].astype(np.float32),
        needed=(observed[order] * (1 - _ROUNDING)).astype(np.float32),
        flat=order,
        negligible=negligible,
    )


def _reached_from(
    family: _Family, sums: NDArray[np.float32], up_to: float
) -> tuple[int, _Places]:
    """Count the sign patterns that reach each pair, for all pairs whose p-value may matter.

    Returns:
        The first pair counted, and the counts from it on. The p-value of the first, and so that
        of all pairs before it, is above ``up_to``, unless it is the very first.
    """
    n_resamples = sums.shape[1]
    pilot = sums[:, :_PILOT]
    margin = 3 * np.sqrt(up_to / pilot.shape[1])
    level = min(float(family.needed[-1]), _highest(len(family.needed), up_to))
    while True:
        begin = _begin(family, level)
        share = _count(family, pilot, begin)[0] / pilot.shape[1]
        if begin == 0 or share > up_to + margin:
            break
        level -= _STEP
    while True:
        reached = _count(family, sums, begin)
        if begin == 0 or (reached[0] + 1) / (n_resamples + 1) > up_to:
            return begin, reached
        level -= _STEP
        begin = _begin(family, level)


def _highest(n_pairs: int, up_to: float) -> float:
    """Return a statistic that hardly more than ``up_to`` of the maxima over all pairs exceed.

    Bonferroni's bound, with a normal tail of at most 2 exp(-z^2 / 2).
    """
    return math.sqrt(2 * math.log(2 * n_pairs / up_to))


def _begin(family: _Family, level: float) -> int:
    """Return the first pair that needs so much; 0 where the pairs before are reached anyway."""
    begin = int(np.searchsorted(family.needed, level))
    return 0 if begin <= family.n_certain else begin


def _count(family: _Family, sums: NDArray[np.float32], begin: int) -> _Places:
    """Count, for each pair from ``begin`` on, the sign patterns whose maximum reaches it."""
    n_pairs, n_resamples = len(family.needed), sums.shape[1]
    least = max(begin, family.n_certain)
    changes = np.zeros(n_pairs + 1, dtype=np.int64)
    if least < n_pairs:
        for pair, pattern, value in _reaching(family, sums, least):
            starts, ends = _ranges(family.needed, pair, pattern, value)
            starts = np.maximum(starts, least)
            counts = ends > starts
            changes += np.bincount(starts[counts], minlength=n_pairs + 1)
            changes -= np.bincount(ends[counts], minlength=n_pairs + 1)
    reached = np.cumsum(changes[:-1])
    reached[: family.n_certain] = n_resamples
    return reached[begin:]


def _ranges(
    needed: NDArray[np.float32], pair: _Places, pattern: _Places, value: NDArray[np.float32]
) -> tuple[_Places, _Places]:
    """Ranges of pairs that patterns reach while their maximum stays as it is.

    Args:
        needed: What must be reached, rising.
        pair: Of a statistic.
        pattern: Sign pattern of it.
        value: The statistic.

    Returns:
        Begins and ends; of one pattern they do not overlap. A begin after its end is none.
    """
    order = np.lexsort((pair, pattern))
    pair, pattern = pair[order], pattern[order]
    distinct, ranks = np.unique(value[order], return_inverse=True)
    highest = np.maximum.accumulate(pattern * len(distinct) + ranks) - pattern * len(distinct)
    is_last = np.append(pattern[1:] != pattern[:-1], True)
    following = np.where(is_last, len(needed), np.append(pair[1:], 0))
    fulfilled = np.searchsorted(needed, distinct[highest], side="right")
    return pair, np.minimum(following, fulfilled)


def _reaching(
    family: _Family, sums: NDArray[np.float32], least: int
) -> Iterator[tuple[_Places, _Places, NDArray[np.float32]]]:
    """Yield the statistics that reach a pair from ``least`` on, block by block of patterns.

    Yields:
        Pairs, sign patterns within the block, and statistics; a pattern is in one block.
    """
    needed = np.maximum(family.needed, family.needed[least])
    for start in range(0, sums.shape[1], _BLOCK):
        block = np.ascontiguousarray(sums[:, start : start + _BLOCK])
        largest = torch.pdist(torch.from_numpy(block), p=float("inf")).numpy()[family.flat]
        (found,) = np.nonzero(
            _statistics(family, largest[:, None], slice(None))[:, 0] >= needed
        )
        n_rows = max(1, _MOST_GATHERED // block.shape[1])
        parts = [_of_pairs(family, block, part, needed) for part in _parts(found, n_rows)]
        if parts:
            pairs, patterns, values = zip(*parts, strict=True)
            yield np.concatenate(pairs), np.concatenate(patterns), np.concatenate(values)


def _parts(places: _Places, size: int) -> Iterator[_Places]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _of_pairs(
    family: _Family, block: NDArray[np.float32], pairs: _Places, needed: NDArray[np.float32]
) -> tuple[_Places, _Places, NDArray[np.float32]]:
    """Statistics of these pairs that reach what is needed: pair, pattern, value."""
    swings = np.abs(block[family.first[pairs]] - block[family.second[pairs]])
    values = _statistics(family, swings, pairs)
    rows, patterns = np.nonzero(values >= needed[pairs, None])
    return pairs[rows], patterns, values[rows, patterns]


def _statistics(
    family: _Family, swings: NDArray[np.float32], pairs: _Places | slice
) -> NDArray[np.float32]:
    """Absolute differences over their standard error; negligible ones count as 0.

    Args:
        family: The pairs.
        swings: Absolute differences, shape (n_pairs, n_patterns).
        pairs: Which pairs they are of.
    """
    scales = family.scales[pairs, None]
    # elsewhere a negligible difference is within the noise anyway
    is_none = (scales * family.negligible > 1) & (swings < family.negligible)
    statistics: NDArray[np.float32] = np.where(is_none, np.float32(0), swings * scales)
    return statistics
