"""Match attention heads of a source to the pivot's, and rotate their inner bases.

Ours (the paper, https://arxiv.org/abs/2505.20144, leaves units inside a layer alone). A
key/value group and its query heads move together; a query head may take any place inside its
group. Inside a head the basis is free: any orthogonal one between V and O, and between Q and K
any one that commutes with the position encoding. None of this changes what the attention
computes.

Steps: compare heads by their circuits, assign query heads inside every pair of groups, assign
groups, then turn each matched group's inner bases to the pivot's.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seme.alignment.assignment import assign_groups
from seme.alignment.circuits import (
    PairMatch,
    output_similarity,
    pair_frequencies,
    pairwise_rotation,
    score_similarity,
)


def value_output_basis(
    values: Tensor, outputs: Tensor, source_values: Tensor, source_outputs: Tensor
) -> Tensor:
    """Find R with the least |v - R v_source|^2 + |o - o_source R^T|^2, both sides of norm 1.

    Args:
        values: (i, w).
        outputs: (n, i, w), what each coordinate of each head writes.
        source_values: (j, w).
        source_outputs: (n, j, w).

    Returns:
        (i, j), float32.
    """
    return _procrustes(_cross(values, source_values) + _cross(outputs, source_outputs)).float()


def query_key_basis(
    queries: Tensor, keys: Tensor, source_queries: Tensor, source_keys: Tensor, pairs: PairMatch
) -> Tensor:
    """Find R with the least |q - R q_source|^2 + |k - R k_source|^2 among those RoPE allows.

    Args:
        queries: (n, i, w), the rotary pairs first: the first coordinates of all, then the
            second.
        keys: (i, w).
        source_queries: (n, j, w).
        source_keys: (j, w).
        pairs: Source pair of each pivot pair.

    Returns:
        (i, j), float32: one rotation per matched pair, zero rows for pairs without a
        counterpart and a Procrustes block for the dimensions without position.
    """
    cross = _cross(queries, source_queries) + _cross(keys, source_keys)
    basis = torch.zeros_like(cross)
    rotary = pairs.planes[:, :, None], pairs.source_planes[:, None, :]
    basis[rotary] = pairwise_rotation(cross[rotary])
    free = slice(2 * len(pairs.index), None), slice(2 * pairs.n_source, None)
    basis[free] = _procrustes(cross[free])
    return basis.float()


def _cross(rows: Tensor, source_rows: Tensor) -> Tensor:
    """Sum a_pivot a_source^T over heads and width with both sides scaled to norm 1, float64."""
    sizes = rows.shape[-2], source_rows.shape[-2]
    norms = torch.linalg.norm(rows) * torch.linalg.norm(source_rows)
    cross = (rows @ source_rows.mT).double().sum_to_size(*sizes)
    scaled: Tensor = cross / norms.double().clamp(min=torch.finfo(torch.float32).tiny)
    return scaled


def _procrustes(cross: Tensor) -> Tensor:
    """Find the (semi-)orthogonal R that maximises tr(R^T cross): U V^T of its SVD."""
    left, _, right = torch.linalg.svd(cross, full_matrices=False)
    polar: Tensor = left @ right
    return polar


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heads:
    """One attention layer, float32, gains of the norm in front folded in.

    Query head h reads key/value group h // (n_heads / n_kv). The bias of o belongs to the
    residual stream, not to a head.
    """

    q: Tensor
    """(n_heads * head_dim, width)."""
    k: Tensor
    """(n_kv * head_dim, width)."""
    v: Tensor
    """(n_kv * head_dim, width)."""
    o: Tensor
    """(width, n_heads * head_dim)."""
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    v_bias: Tensor | None = None
    n_heads: int
    n_kv: int
    head_dim: int
    frequencies: tuple[float, ...]
    """Angular frequency of each rotary pair: pair i is dimensions (i, i + pairs) of a head, and
    dimensions from 2 * pairs on carry no position. Empty without RoPE."""
    attention_scale: float
    """Factor of q k^T before the softmax, as a rule head_dim ** -0.5."""

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv:
            raise ValueError(
                f"n_heads must be a multiple of n_kv, got {self.n_heads} and {self.n_kv}"
            )
        if 2 * len(self.frequencies) > self.head_dim:
            raise ValueError(
                f"a head of {self.head_dim} dimensions has at most {self.head_dim // 2} rotary "
                f"pairs, got {len(self.frequencies)}"
            )
        queries, keys = self.n_heads * self.head_dim, self.n_kv * self.head_dim
        width = self.o.shape[0]
        for name, weight, expected in (
            ("q", self.q, (queries, width)),
            ("k", self.k, (keys, width)),
            ("v", self.v, (keys, width)),
            ("o", self.o, (width, queries)),
        ):
            if tuple(weight.shape) != expected:
                raise ValueError(f"{name} must be {expected}, got {tuple(weight.shape)}")

    @property
    def queries(self) -> Tensor:
        """(n_heads, head_dim, width + 1): the bias is the weight of an input that is one."""
        return _rows(self.q, self.q_bias, self.n_heads)

    @property
    def keys(self) -> Tensor:
        """(n_kv, head_dim, width + 1)."""
        return _rows(self.k, self.k_bias, self.n_kv)

    @property
    def values(self) -> Tensor:
        """(n_kv, head_dim, width + 1)."""
        return _rows(self.v, self.v_bias, self.n_kv)

    @property
    def outputs(self) -> Tensor:
        """(n_heads, head_dim, width): vectors written by the coordinates of each head."""
        return self.o.T.reshape(self.n_heads, self.head_dim, -1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadMatch:
    """Source heads matched to the pivot's, and the rotations of their inner bases."""

    group_index: Tensor
    """(n_kv_pivot,) int64: the source's key/value group, -1 without a counterpart."""
    head_index: Tensor
    """(n_heads_pivot,) int64: the source's query head, -1 without a counterpart."""
    qk: Tensor
    """(n_kv_pivot, head_dim_pivot, head_dim_source): q' = R q, k' = R k; zero without one."""
    vo: Tensor
    """(n_kv_pivot, head_dim_pivot, head_dim_source): v' = R v, o' = o R^T; zero without one."""
    similarity: Tensor
    """(n_kv_pivot,): mean cosine of the matched heads' circuits in [-1, 1], 0 without one."""
    exact: bool
    """Every rotary pair of the source is matched to a pivot pair of its own frequency."""
    q_scale: float
    """Attention scale of the source over the pivot's: factor of the queries. A norm of queries
    inside the heads cancels it; its gain must be multiplied instead."""
    frequencies: tuple[float, ...]
    """The pivot's."""
    attention_scale: float
    """The pivot's."""


def match_heads(pivot: Heads, source: Heads, *, rotate_inner: bool) -> HeadMatch:
    """Assign the source's groups and heads to the pivot's and turn their inner bases.

    A source with more groups, or more heads in a group, leaves the least similar unused; one
    with fewer leaves places of the pivot without a counterpart.

    Args:
        pivot: Attention of the pivot.
        source: Attention of the source in the pivot's residual frame.
        rotate_inner: Rotate the basis of queries and keys; false where a norm with gains of
            its own acts on them inside the head.

    Raises:
        ValueError: If the two differ in width, or ``rotate_inner`` is false and they differ in
            head_dim or in the number of rotary pairs.
    """
    _check_comparable(pivot, source, rotate_inner=rotate_inner)
    pairs = pair_frequencies(pivot.frequencies, source.frequencies)
    if not rotate_inner:
        pairs = pairs.in_order()
    group_index, head_index, similarity = assign_groups(
        head_similarity(pivot, source, pairs),
        n_groups=pivot.n_kv,
        n_groups_source=source.n_kv,
    )
    qk, vo = _inner_bases(pivot, source, group_index, head_index, pairs)
    if not rotate_inner:
        qk = torch.eye(pivot.head_dim, device=qk.device) * (group_index >= 0)[:, None, None]
    return HeadMatch(
        group_index=group_index,
        head_index=head_index,
        qk=qk,
        vo=vo,
        similarity=similarity,
        exact=pairs.exact,
        q_scale=source.attention_scale / pivot.attention_scale,
        frequencies=pivot.frequencies,
        attention_scale=pivot.attention_scale,
    )


def head_similarity(pivot: Heads, source: Heads, pairs: PairMatch) -> Tensor:
    """Compare all query heads by the mean cosine of their O V and Q^T K circuits.

    Returns:
        (n_heads_pivot, n_heads_source) in [-1, 1].
    """
    writes = output_similarity(pivot.outputs, pivot.values, source.outputs, source.values)
    looks = score_similarity(pivot.queries, pivot.keys, source.queries, source.keys, pairs)
    return (writes + looks) / 2


def apply_heads(match: HeadMatch, source: Heads) -> Heads:
    """Put the source's heads in the pivot's places and bases, zeros without a counterpart.

    With every head placed, every rotary pair at its own frequency and a head_dim of the pivot
    no smaller than the source's, the attention computes what it did before.
    """
    return _rebuild(match, source, match.head_index, match.group_index, match.qk, match.vo)


def restrict_heads(match: HeadMatch, heads: Heads) -> Heads:
    """Mask heads of the pivot's shape to what has a counterpart in the source, else zeros.

    The pivot plus the restricted change to ``apply_heads(match, source)`` keeps the pivot's own
    weights where there is no counterpart, be it a head, a rotary pair, or a direction inside a
    head wider than the source's.
    """
    head_index, group_index = (
        torch.where(index >= 0, torch.arange(len(index), device=index.device), -1)
        for index in (match.head_index, match.group_index)
    )
    qk, vo = match.qk @ match.qk.mT, match.vo @ match.vo.mT
    return _rebuild(replace(match, q_scale=1.0), heads, head_index, group_index, qk, vo)


def _rebuild(
    match: HeadMatch,
    heads: Heads,
    head_index: Tensor,
    group_index: Tensor,
    qk: Tensor,
    vo: Tensor,
) -> Heads:
    """Gather heads and groups into the pivot's shape and multiply each by its basis."""
    n_shared = len(head_index) // len(group_index)
    q = _placed(heads.queries, head_index, qk.repeat_interleave(n_shared, dim=0))
    q *= match.q_scale
    k = _placed(heads.keys, group_index, qk)
    v = _placed(heads.values, group_index, vo)
    o = _placed(heads.outputs, head_index, vo.repeat_interleave(n_shared, dim=0))
    return Heads(
        q=q[:, :-1].contiguous(),
        k=k[:, :-1].contiguous(),
        v=v[:, :-1].contiguous(),
        o=o.T.contiguous(),
        q_bias=None if heads.q_bias is None else q[:, -1].contiguous(),
        k_bias=None if heads.k_bias is None else k[:, -1].contiguous(),
        v_bias=None if heads.v_bias is None else v[:, -1].contiguous(),
        n_heads=len(head_index),
        n_kv=len(group_index),
        head_dim=qk.shape[1],
        frequencies=match.frequencies,
        attention_scale=match.attention_scale,
    )


def _placed(rows: Tensor, index: Tensor, basis: Tensor) -> Tensor:
    """Turn the chosen heads, (n, j, w) to (n_pivot * i, w); zeros where the index is -1."""
    chosen = rows[index.clamp(min=0)] * (index >= 0)[:, None, None]
    return (basis @ chosen).flatten(0, 1)


def _inner_bases(
    pivot: Heads, source: Heads, group_index: Tensor, head_index: Tensor, pairs: PairMatch
) -> tuple[Tensor, Tensor]:
    """Turn every matched group to its pivot group, (n_kv, head_dim, head_dim_source) twice."""
    qk = pivot.q.new_zeros(pivot.n_kv, pivot.head_dim, source.head_dim)
    vo = torch.zeros_like(qk)
    q, k, v, o = pivot.queries, pivot.keys, pivot.values, pivot.outputs
    source_q, source_k, source_v, source_o = (
        source.queries,
        source.keys,
        source.values,
        source.outputs,
    )
    places = torch.arange(pivot.n_heads, device=q.device).view(pivot.n_kv, -1)
    for group, other in enumerate(group_index.tolist()):
        if other >= 0:
            heads = places[group][head_index[places[group]] >= 0]
            others = head_index[heads]
            qk[group] = query_key_basis(
                q[heads], k[group], source_q[others], source_k[other], pairs
            )
            vo[group] = value_output_basis(
                v[group], o[heads], source_v[other], source_o[others]
            )
    return qk, vo


def _check_comparable(pivot: Heads, source: Heads, *, rotate_inner: bool) -> None:
    """Refuse layers of different residual frames, and inner bases that cannot be rotated."""
    if pivot.o.shape[0] != source.o.shape[0]:
        raise ValueError(
            f"heads are compared in one residual frame, got width {pivot.o.shape[0]} of the "
            f"pivot and {source.o.shape[0]} of the source; apply the residual map to the "
            "source first"
        )
    bases = [(heads.head_dim, len(heads.frequencies)) for heads in (pivot, source)]
    if not rotate_inner and bases[0] != bases[1]:
        raise ValueError(
            "norms of queries and keys inside the heads fix their basis: head_dim and rotary "
            f"pairs must be equal, got {bases[0]} of the pivot and {bases[1]} of the source; "
            "choose a source with heads like the pivot's"
        )


def _rows(weight: Tensor, bias: Tensor | None, n_heads: int) -> Tensor:
    """Cut into heads and append the bias as one more column, (n_heads, head_dim, width + 1)."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    rows = torch.cat([weight, bias[:, None]], dim=1)
    return rows.view(n_heads, len(weight) // n_heads, rows.shape[1])
