"""Residual maps: a source's residual stream in the pivot's frame, for any two widths.

SeMe, https://arxiv.org/abs/2505.20144. Paper: r' = sum_i cos(r, s_i^source) s_i^pivot with
bases of unit length, as a matrix M = U_P^T U_k up to scale. Ours: its (semi-)orthogonal polar
factor and the least-squares solution as alternatives to M itself (used literally, M is not the
identity even for the pivot itself), the embeddings as further anchors, and the constraint for
LayerNorm.

Shape suffixes: V tokens, B tokens of one block, D any width, P the pivot's, K the source's.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seme.alignment.options import Projection
from seme.alignment.semantic_bases import MAX_CONDITION, Bases, blocks_of

_SEEN = MAX_CONDITION**-2
"""Singular value over the largest below which no token determines a direction."""
_FLAT = 1e3
"""Condition number below which a matrix may be squared."""
_FLOAT32_CONDITION = 1e4
"""Condition number of a head up to which its whitened rows are computed in float32: rounding
(6e-8) grows by it, independently from token to token, and there are thousands of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualMap:
    """A representation r of the source is ``forward r`` in the pivot's frame."""

    forward_PK: Tensor
    """T, float32."""
    backward_KP: Tensor
    """T^T where T is orthogonal, T^+ where it is not; float32. Right factor of the source's
    readers, up to the scale that a change of width needs."""
    support_PP: Tensor | None
    """Projector on the range of T, float32, when the source is narrower; None otherwise."""
    distance: float | None
    """||T - I||_F / sqrt(d), of T in float64: 0 in the pivot's own frame, 1.4 for a random T;
    None between different widths."""
    similarity: float
    """Mean inner product of the pivot's unit rows with the source's mapped ones: their mean
    cosine where T keeps lengths, as every orthogonal T of a source that is not wider does."""


def residual_map(
    operator_PK: Tensor,
    *,
    projection: Projection,
    centred: bool,
    n_anchors: int,
    pivot_PP: Tensor | None = None,
) -> ResidualMap:
    """Turn the operator of two models into the map from the source's frame to the pivot's.

    Args:
        operator_PK: M, float64: :func:`residual_operator`, or its sum with
            :func:`embedding_operator` (ours).
        projection: ``cosine`` (paper): M scaled by sqrt(d) / ||M||_F, d the smaller width, to
            the norm of a semi-orthogonal matrix. ``orthogonal`` (ours): the polar factor of M.
            ``least_squares`` (ours): U_P^+ U_k.
        centred: The models subtract means (LayerNorm): T then maps the all-ones direction to
            itself and vectors of mean zero to vectors of mean zero (ours).
        n_anchors: Number of unit rows summed in M: shared tokens, twice that with embeddings.
        pivot_PP: The same operator of the pivot with itself; for ``least_squares`` only.

    Raises:
        ValueError: If the projection is not orthogonal for centred models.
    """
    if centred and projection != "orthogonal":
        raise ValueError(
            "a model with LayerNorm needs alignment.projection=orthogonal, the only one that "
            f"fixes the all-ones direction LayerNorm subtracts, got {projection}"
        )
    if projection == "orthogonal":
        forward_PK = centred_polar_factor(operator_PK) if centred else polar_factor(operator_PK)
        backward_KP = forward_PK.T
    else:
        if projection == "cosine":
            norm_kept = math.sqrt(min(operator_PK.shape)) / torch.linalg.norm(operator_PK)
            forward_PK = norm_kept * operator_PK
        else:
            assert pivot_PP is not None, "least_squares needs the pivot's operator with itself"
            forward_PK = least_squares(pivot_PP, operator_PK)
        backward_KP = torch.linalg.pinv(forward_PK)
    width, source_width = operator_PK.shape
    return ResidualMap(
        forward_PK=forward_PK.float().contiguous(),
        backward_KP=backward_KP.float().contiguous(),
        support_PP=(forward_PK @ backward_KP).float() if source_width < width else None,
        distance=distance_from_identity(forward_PK) if source_width == width else None,
        similarity=float((forward_PK * operator_PK).sum()) / n_anchors,
    )


def residual_operator(pivot: Bases, source: Bases, *, block_rows: int) -> Tensor:
    """Sum u_i^P (u_i^k)^T over the shared tokens: the paper's operator M = U_P^T U_k.

    Ours: the sum is taken over whitened rows, q_i = h_i whitener over the length of s_i, and
    what is steep in M is multiplied to it afterwards. So products in float32 do, summed over
    the blocks in float64; heads of a condition number above 1e4 are taken in float64.

    Args:
        pivot: Bases of the shared tokens in the pivot.
        source: Bases of the same tokens, in the same order, in the source, of any width.
        block_rows: Tokens taken at a time, at least 1; bounds the working memory.

    Returns:
        M in float64, (pivot's width, source's width).

    Raises:
        ValueError: If the two have different numbers of tokens.
    """
    _check_pairs(pivot.head_VD, source.head_VD, None, None)
    steep = max(pivot.condition, source.condition) > _FLOAT32_CONDITION
    dtype = torch.float64 if steep else torch.float32
    to, of = pivot.whitening(dtype), source.whitening(dtype)
    total_PK = _zeros(pivot.head_VD, source.head_VD)
    for block_BP, block_BK in zip(
        blocks_of(pivot.head_VD, None, block_rows),
        blocks_of(source.head_VD, None, block_rows),
        strict=True,
    ):
        total_PK += to.rows(block_BP).T @ of.rows(block_BK)
    return to.unwhitener_DD.T @ total_PK @ of.unwhitener_DD


def embedding_operator(
    pivot_VP: Tensor,
    source_VK: Tensor,
    pivot_rows: Tensor | None,
    source_rows: Tensor | None,
    *,
    block_rows: int,
) -> Tensor:
    """Sum e_i^P (e_i^k)^T over the shared tokens, e_i the unit rows of the embeddings (ours).

    Result and errors are those of :func:`residual_operator`, with the embedding matrices
    (tokens, width) of any floating dtype in the place of the bases, and ``pivot_rows`` and
    ``source_rows``, int64, for the shared tokens in them; None for every row. Rows of length
    one need no more than float32 for the sum over a block; the blocks are summed in float64.

    Raises:
        ValueError: Also if an embedding is not finite.
    """
    _check_pairs(pivot_VP, source_VK, pivot_rows, source_rows)
    total_PK = _zeros(pivot_VP, source_VK)
    for block_BP, block_BK in zip(
        blocks_of(pivot_VP, pivot_rows, block_rows),
        blocks_of(source_VK, source_rows, block_rows),
        strict=True,
    ):
        total_PK += _unit(block_BP.float()).T @ _unit(block_BK.float())
    if not total_PK.isfinite().all():
        raise ValueError(
            f"the embeddings {tuple(pivot_VP.shape)} of the pivot and {tuple(source_VK.shape)} "
            "of the source must be finite to be anchors, got NaN or infinity"
        )
    return total_PK


def _check_pairs(
    pivot_VP: Tensor, source_VK: Tensor, pivot_rows: Tensor | None, source_rows: Tensor | None
) -> None:
    n_pivot = len(pivot_VP if pivot_rows is None else pivot_rows)
    n_source = len(source_VK if source_rows is None else source_rows)
    if n_pivot != n_source:
        raise ValueError(
            "a residual map needs the same tokens of both models, row by row, got "
            f"{n_pivot} of the pivot and {n_source} of the source"
        )


def _zeros(pivot_VP: Tensor, source_VK: Tensor) -> Tensor:
    shape = pivot_VP.shape[1], source_VK.shape[1]
    return torch.zeros(shape, dtype=torch.float64, device=pivot_VP.device)


def _unit(rows_BD: Tensor) -> Tensor:
    tiny = torch.finfo(rows_BD.dtype).tiny
    return torch.nn.functional.normalize(rows_BD, dim=1, eps=tiny)


def polar_factor(operator: Tensor) -> Tensor:
    """Find the (semi-)orthogonal matrix nearest to a matrix M: U V^T of its SVD (ours).

    Computed as M (M^T M)^-1/2 where M's condition number is below 1e3: half the time of the
    SVD, and orthogonal to within 1e-16 times the square of that number.

    Directions that no token determines (fewer tokens than dimensions) would turn arbitrarily;
    they get the turn nearest to the identity, so that the pivot's own frame stays I.

    Args:
        operator: M, float64, (n, m), finite.

    Returns:
        float64, (n, m); its shorter side is orthonormal.
    """
    if operator.shape[0] < operator.shape[1]:
        return polar_factor(operator.T).T
    squares, axes = torch.linalg.eigh(operator.T @ operator)
    if squares[-1] < _FLAT**2 * squares[0]:
        nearest: Tensor = operator @ (axes * squares.rsqrt()) @ axes.T
        return nearest
    left, singular, right = torch.linalg.svd(operator, full_matrices=False)
    n_seen = int((singular > _SEEN * singular[0]).sum())
    polar: Tensor = left[:, :n_seen] @ right[:n_seen]
    if n_seen == len(singular):
        return polar
    left, _, right = torch.linalg.svd(operator)
    unseen_left, unseen_right = left[:, n_seen:], right[n_seen:]
    unturned = unseen_left.T @ _identity(operator) @ unseen_right.T
    inner_left, _, inner_right = torch.linalg.svd(unturned, full_matrices=False)
    polar += unseen_left @ inner_left @ inner_right @ unseen_right
    return polar


def centred_polar_factor(operator_PK: Tensor) -> Tensor:
    """Find the nearest (semi-)orthogonal matrix that commutes with subtracting means (ours).

    It maps ones/sqrt(K) to ones/sqrt(P) and vectors of mean zero to vectors of mean zero.
    """
    n_pivot, n_source = operator_PK.shape
    mean_free_P, mean_free_K = _mean_free_axes(operator_PK, 0), _mean_free_axes(operator_PK, 1)
    inner = polar_factor(mean_free_P.T @ operator_PK @ mean_free_K)
    return mean_free_P @ inner @ mean_free_K.T + 1 / math.sqrt(n_pivot * n_source)


def distance_from_identity(transform: Tensor) -> float:
    """Compute ||T - I||_F / sqrt(d), the root mean square turn of an axis."""
    turn = torch.linalg.norm(transform - _identity(transform))
    return float(turn) / math.sqrt(len(transform))


def least_squares(gram: Tensor, operator: Tensor) -> Tensor:
    """Solve U_P T = U_k for T from U_P^T U_P and U_P^T U_k; identity in unseen directions."""
    inverse: Tensor = torch.linalg.pinv(gram, rtol=_SEEN, hermitian=True)
    identity = _identity(operator)
    return inverse @ operator + identity - inverse @ (gram @ identity)


def _mean_free_axes(operator_PK: Tensor, dim: int) -> Tensor:
    """Span the vectors of mean zero: the reflection of axis 0 to all ones, less that column."""
    width = operator_PK.shape[dim]
    normal_D = operator_PK.new_full((width,), 1 / math.sqrt(width))
    normal_D[0] += 1
    reflection_DD = torch.outer(normal_D, normal_D).mul_(-2 / float(normal_D @ normal_D))
    reflection_DD.diagonal().add_(1)
    return reflection_DD[:, 1:]


def _identity(like: Tensor) -> Tensor:
    return torch.eye(*like.shape, dtype=like.dtype, device=like.device)
