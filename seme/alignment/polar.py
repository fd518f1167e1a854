"""Matrices nearest to an operator between two frames: orthogonal, fixing the mean, least squares.

All three are ours; SeMe, https://arxiv.org/abs/2505.20144, uses the operator itself.
"""

import math

import torch
from torch import Tensor

from seme.alignment.semantic_bases import MAX_CONDITION

_SEEN = MAX_CONDITION**-2
"""Singular value over the largest below which no token says anything of a direction."""
_FLAT = 1e3
"""Condition number below which a matrix may be squared."""


def polar_factor(operator: Tensor) -> Tensor:
    """Find the (semi-)orthogonal matrix nearest to a matrix M: U V^T of its SVD (ours).

    That is M (M^T M)^-1/2, which takes half the time and is orthogonal to within 1e-16 times the
    square of M's condition number: so it is computed where that number is below 1e3.

    Directions of which no token says anything (fewer tokens than dimensions) would turn
    arbitrarily; they take the turn nearest to none, so that the pivot's own frame stays I.

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
    """Measure ||T - I||_F / sqrt(d) of a square matrix: the root mean square turn of an axis."""
    turn = torch.linalg.norm(transform - _identity(transform))
    return float(turn) / math.sqrt(len(transform))


def least_squares(gram: Tensor, operator: Tensor) -> Tensor:
    """Solve U_P T = U_k for T from U_P^T U_P and U_P^T U_k; unseen directions stay as they are."""
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
