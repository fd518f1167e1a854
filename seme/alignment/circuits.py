"""Compare attention heads by their circuits: O V (values written) and Q^T K (attention scores).

Ours. The circuits are width x width matrices, unchanged by the inner basis of a head, so that
heads of two models in one residual frame can be compared through them. Their inner products
need only Gram matrices of the heads' rows, <A^T B, C^T D> = sum((A C^T) * (B D^T)): no width x
width matrix is formed.

Under RoPE the scores of a head depend on the relative position. Writing pair c of a query as
one complex number q_c, and of a key as k_c, the score at distance t is
Re(sum_c q_c conj(k_c) exp(i t frequency_c)). The inner product used here is the mean over all
distances of the inner products of the score operators,
1/2 Re(sum_c <q_c, q'_c> conj(<k_c, k'_c>)); it does not change when a pair of q and k is turned
together, which is the freedom RoPE leaves. Dimensions without position add the plain one.

Shapes: n, m query heads and g, h key/value groups of two models, each group shared by n / g
consecutive heads; i, j rows of a head; c rotary pairs; w width.
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
    """Rotary pairs of the source matched to those of the pivot."""

    index: tuple[int, ...]
    """Per pivot pair the source pair, -1 where the source has none left."""
    n_source: int
    """Pairs of the source."""
    exact: bool
    """True if every source pair is matched to a pivot pair of its own frequency."""

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
    pair i is matched to pivot pair 2 i, exactly.

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

    A reflection may fit better but is not allowed: it reverses the sense in which the pair
    turns with position.

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
        equal = (
            i for i in unused if math.isclose(source[i], frequency, rel_tol=SAME_FREQUENCY)
        )
        pair = next(equal, -1)
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


def output_similarity(
    outputs: Tensor, values: Tensor, source_outputs: Tensor, source_values: Tensor
) -> Tensor:
    """Take the cosines of the O V circuits of all heads.

    Args:
        outputs: (n, i, w), what each coordinate of a head writes.
        values: (g, i, w).
        source_outputs: (m, j, w).
        source_values: (h, j, w).

    Returns:
        (n, m) in [-1, 1]; a circuit of zeros has cosine 0 with every other.
    """
    inner = circuit_inner(outputs, values, source_outputs, source_values)
    squares = circuit_square(outputs, values)
    return _cosine(inner, squares, circuit_square(source_outputs, source_values))


def score_similarity(
    queries: Tensor, keys: Tensor, source_queries: Tensor, source_keys: Tensor, pairs: PairMatch
) -> Tensor:
    """Take the cosines of the Q^T K circuits of all heads, averaged over relative positions.

    Args:
        queries: (n, i, w), rotary pairs first: the first coordinates of all, then the second.
        keys: (g, i, w).
        source_queries: (m, j, w).
        source_keys: (h, j, w).
        pairs: Source pair of each pivot pair; what has no counterpart has inner product 0.

    Returns:
        (n, m) in [-1, 1]; a circuit of zeros has cosine 0 with every other.
    """
    free, source_free = 2 * len(pairs.index), 2 * pairs.n_source
    inner = circuit_inner(
        queries[:, free:],
        keys[:, free:],
        source_queries[:, source_free:],
        source_keys[:, source_free:],
    )
    inner += rotary_inner(
        queries[:, pairs.planes],
        keys[:, pairs.planes],
        source_queries[:, pairs.source_planes],
        source_keys[:, pairs.source_planes],
    )
    squares = _score_square(queries, keys, free)
    return _cosine(inner, squares, _score_square(source_queries, source_keys, source_free))


def circuit_inner(left: Tensor, right: Tensor, left_m: Tensor, right_m: Tensor) -> Tensor:
    """Take the inner products of the circuits left^T right of two sets of heads.

    Args:
        left: (n, i, w).
        right: (g, i, w).
        left_m: (m, j, w).
        right_m: (h, j, w).

    Returns:
        (n, m).
    """
    n, m, groups, groups_m = len(left), len(left_m), len(right), len(right_m)
    left_gram = _gram(left, left_m).reshape(
        groups, n // groups, left.shape[1], groups_m, m // groups_m, left_m.shape[1]
    )
    inner = torch.einsum("grihsj,gihj->grhs", left_gram, _gram(right, right_m))
    return inner.reshape(n, m)


def rotary_inner(query: Tensor, key: Tensor, query_m: Tensor, key_m: Tensor) -> Tensor:
    """Take the inner products of rotary score operators, averaged over relative positions.

    Args:
        query: (n, c, 2, w), both coordinates of each pair.
        key: (g, c, 2, w).
        query_m: (m, c, 2, w), pair by pair of the same frequencies.
        key_m: (h, c, 2, w).

    Returns:
        (n, m).
    """
    queries = _complex(query) @ _complex(query_m).mH
    keys = _complex(key) @ _complex(key_m).mH
    keys = keys.repeat_interleave(len(query) // len(key), dim=1)
    keys = keys.repeat_interleave(len(query_m) // len(key_m), dim=2)
    return (queries * keys.conj()).real.sum(dim=0) / 2


def circuit_square(left: Tensor, right: Tensor) -> Tensor:
    """Take each head's inner product with itself in ``circuit_inner``, (n,)."""
    shared = (right @ right.mT).repeat_interleave(len(left) // len(right), dim=0)
    return ((left @ left.mT) * shared).sum(dim=(1, 2))


def _score_square(queries: Tensor, keys: Tensor, free: int) -> Tensor:
    """Take each head's inner product with itself in ``score_similarity``, (n,)."""
    turning = [_pair_squares(rows[:, :free]) for rows in (queries, keys)]
    shared = turning[1].repeat_interleave(len(queries) // len(keys), dim=0)
    return (turning[0] * shared).sum(dim=1) / 2 + circuit_square(
        queries[:, free:], keys[:, free:]
    )


def _pair_squares(rows: Tensor) -> Tensor:
    """Take the squared norm of each rotary pair, (n, c)."""
    first, second = rows.square().sum(dim=2).chunk(2, dim=1)
    return first + second


def _cosine(inner: Tensor, squares: Tensor, squares_m: Tensor) -> Tensor:
    """Divide inner products (n, m) by both norms; 0 where a norm is 0."""
    norms = squares.sqrt()[:, None] * squares_m.sqrt()
    return (inner / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(-1, 1)


def _gram(rows: Tensor, rows_m: Tensor) -> Tensor:
    """Multiply all rows of all heads, (n, i, m, j)."""
    gram = rows.flatten(0, 1) @ rows_m.flatten(0, 1).T
    return gram.view(*rows.shape[:2], *rows_m.shape[:2])


def _complex(rows: Tensor) -> Tensor:
    """See each rotary pair as one complex row, (c, n, w)."""
    return torch.complex(rows[:, :, 0], rows[:, :, 1]).transpose(0, 1)
