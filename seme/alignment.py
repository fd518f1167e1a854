"""Semantics-preservative transformation: a source's residual stream in the pivot's frame.

SeMe, https://arxiv.org/abs/2505.20144. Paper: r' = sum_i cos(r, s_i^source) s_i^pivot with bases
of unit length, as a matrix M = U_P^T U_k up to scale. Ours: its orthogonal polar factor and the
least-squares solution as alternatives to M itself (used literally, M is not the identity even for
the pivot itself), the way a map on representations acts on weights, and the folding of gains.

Shape suffixes: V tokens, P the pivot's residual width, K the source's; both equal for now.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from seme.bases import MAX_CONDITION, Bases, row_blocks
from seme.checks import check_choice
from seme.types import Role

Projection = Literal["cosine", "least_squares", "orthogonal"]
"""Cosine is the paper's; the other two are ours."""

_SEEN = MAX_CONDITION**-2
"""Singular value of M, over its largest, below which no token says anything of a direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualMap:
    """A representation r of the source is ``forward r`` in the pivot's frame."""

    forward_PK: Tensor
    """T, float32."""
    backward_KP: Tensor
    """T^T where T is orthogonal, T^+ where it is not; float32."""
    distance: float
    """||T - I||_F / sqrt(d), of T in float64: 0 in the pivot's own frame, 1.4 for a random T."""


def residual_map(
    pivot: Bases, source: Bases, *, projection: Projection, block_rows: int
) -> ResidualMap:
    """Find the map that takes the source's semantic bases to the pivot's.

    Args:
        pivot: Bases of the pivot.
        source: Bases of the source, row by row of the same tokens.
        projection: ``cosine`` (paper): M scaled by sqrt(d) / ||M||_F, the norm of an orthogonal
            matrix. ``orthogonal`` (ours): the polar factor of M. ``least_squares`` (ours):
            U_P^+ U_k.
        block_rows: Tokens taken to float64 at a time, at least 1.

    Raises:
        ValueError: If the projection is unknown or the two have different numbers of tokens.
    """
    check_choice("projection", projection, get_args(Projection))
    operator_PK = cross_gram(pivot, source, block_rows=block_rows)
    if projection == "orthogonal":
        forward_PK = polar_factor(operator_PK)
        backward_KP = forward_PK.T
    else:
        if projection == "cosine":
            norm_kept = math.sqrt(operator_PK.shape[0]) / torch.linalg.norm(operator_PK)
            forward_PK = norm_kept * operator_PK
        else:
            pivot_PP = cross_gram(pivot, pivot, block_rows=block_rows)
            forward_PK = _least_squares(pivot_PP, operator_PK)
        backward_KP = torch.linalg.pinv(forward_PK)
    return ResidualMap(
        forward_PK=forward_PK.float().contiguous(),
        backward_KP=backward_KP.float().contiguous(),
        distance=distance_from_identity(forward_PK),
    )


def cross_gram(pivot: Bases, source: Bases, *, block_rows: int) -> Tensor:
    """Sum u_i^P (u_i^k)^T over the tokens: the paper's operator M = U_P^T U_k, float64, (P, K).

    Raises:
        ValueError: If the two have different numbers of tokens.
    """
    (n_tokens, width), (n_source, source_width) = pivot.head_VD.shape, source.head_VD.shape
    if n_tokens != n_source:
        raise ValueError(
            "a residual map needs the same tokens in the rows of both heads, got "
            f"{n_tokens} of the pivot and {n_source} of the source"
        )
    operator_PK = torch.zeros(
        width, source_width, dtype=torch.float64, device=pivot.head_VD.device
    )
    for start, stop in row_blocks(n_tokens, block_rows):
        operator_PK.addmm_(pivot.unit_rows(start, stop).T, source.unit_rows(start, stop))
    return operator_PK


def polar_factor(operator: Tensor) -> Tensor:
    """Find the orthogonal matrix nearest to a square one: U V^T of its SVD (ours).

    Directions of which no token says anything (fewer tokens than dimensions) would turn
    arbitrarily; they take the turn nearest to none, so that the pivot's own frame stays I.
    """
    left, singular, right = torch.linalg.svd(operator)
    seen = singular > _SEEN * singular[0]
    polar: Tensor = left[:, seen] @ right[seen]
    if not seen.all():
        unseen_left, unseen_right = left[:, ~seen], right[~seen]
        inner_left, _, inner_right = torch.linalg.svd(unseen_left.T @ unseen_right.T)
        polar = polar + unseen_left @ inner_left @ inner_right @ unseen_right
    return polar


def distance_from_identity(transform: Tensor) -> float:
    """Measure ||T - I||_F / sqrt(d) of a square matrix: the root mean square turn of an axis."""
    identity = torch.eye(len(transform), dtype=transform.dtype, device=transform.device)
    return float(torch.linalg.norm(transform - identity)) / math.sqrt(len(transform))


def align_tensor(
    weight: Tensor, role: Role, residual_map: ResidualMap | None, gain: Tensor | None
) -> Tensor:
    """Rewrite one tensor for a residual stream turned by T, with the norms' gains folded (ours).

    With T orthogonal, a model of which every tensor is rewritten computes what it did before.

    Args:
        weight: The tensor as stored (linear layers: outputs x inputs). Never written to.
        role: What the tensor does.
        residual_map: T of its model; None for T = I, where only gains are folded.
        gain: Gain of the norm in front of it, for readers and heads; None for all others.

    Returns:
        Embeddings E T^T, writers T W, their biases T b, readers and heads W diag(g) T^-1, norms
        all ones, and what lies inside a block as it was.
    """
    if role is Role.NORM:
        return torch.ones_like(weight)
    if gain is not None:
        weight = weight * gain
    if residual_map is None:
        return weight
    match role:
        case Role.READER | Role.HEAD:
            return weight @ residual_map.backward_KP
        case Role.WRITER | Role.WRITER_BIAS:
            return residual_map.forward_PK @ weight
        case Role.EMBEDDING:
            return weight @ residual_map.forward_PK.T
        case Role.INNER_BIAS | Role.INNER_NORM:
            return weight


def _least_squares(pivot_PP: Tensor, operator_PK: Tensor) -> Tensor:
    """Solve U_P T = U_k for T from U_P^T U_P and U_P^T U_k; unseen directions stay as they are."""
    inverse_PP: Tensor = torch.linalg.pinv(pivot_PP, rtol=_SEEN, hermitian=True)
    identity_PK = torch.eye(
        *operator_PK.shape, dtype=operator_PK.dtype, device=operator_PK.device
    )
    return inverse_PP @ operator_PK + identity_PK - inverse_PP @ (pivot_PP @ identity_PK)
