"""ACE-Merging: weigh task matrices by the input covariances that they let estimate.

Xu et al., 2026, ACE-Merging, https://arxiv.org/abs/2603.02945, in the steps of the authors' code,
https://github.com/unravel-xu/ACE-Merging. Per matrix: estimate each task's covariance of the
inputs by its centred task matrix; solve for the matrix that serves all tasks under them; where
the tasks' sizes differ widely, normalise the covariances, and add the leading directions with
one singular value.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from baselines.task_matrices import (
    Vocabulary,
    add_change,
    add_mean,
    check_vocabulary,
    is_matrix,
    rounding_norm,
    sum_of,
    task_matrices,
    thin_svd,
    times_gram,
    with_equal_values,
)
from seme.checks import check_finite, check_share
from seme.interface import Site, checked_by, whole_tensor

_TINY = 1e-12
"""Added to denominators and under logarithms (authors' code)."""


class Covariances(NamedTuple):
    """Estimated covariances of the inputs, Sigma_t = R_t^T R_t, one entry per task."""

    roots: list[Tensor]
    """R_t, float64, (m, n): centred task matrices over the square root of the scale."""
    scales: list[float]
    """Traces that the covariances were divided by; 1 where they were not."""
    ridges: list[float]
    """Added to the diagonals, e_t."""


def check(
    *, ridge: float, spread: float, refined: float, lam: float, vocabulary: Vocabulary
) -> None:
    """Demand a ``ridge`` above 0, a ``spread`` of at least 0, a share ``refined``, the rest."""
    check_finite("ridge", ridge, least=0)
    if ridge == 0:
        raise ValueError("ridge must be above 0, got 0: the covariances alone are singular")
    check_finite("spread", spread, least=0)
    check_share("refined", refined)
    check_finite("lam", lam)
    check_vocabulary(vocabulary)


@whole_tensor(temporaries=8, per_source=14, choice=is_matrix)
@checked_by(check)
def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    _site: Site,
    /,
    *,
    ridge: float,
    spread: float,
    refined: float,
    lam: float,
) -> Tensor:
    """Add ``lam`` times the covariance-weighted task matrix to the pivot.

    ``ridge`` is absolute, as in the authors' code: where task matrices are small against it,
    the result is near the mean of the centred task matrices. A source whose task matrix is zero
    takes no part (ours: its normalised ridge would be 1e10).

    Args:
        pivot: Pre-trained float32 weights, (m, n), or a flat block of what is no matrix. Never
            written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``.
        ridge: Added to each covariance's diagonal, above 0 (the code's eps).
        spread: Variance of the logarithms of the tasks' squared norms over their squared mean,
            from which the sizes count as widely different, at least 0; one task never does.
        refined: Share of the min(m, n) directions that are then added with their mean singular
            value, in (0, 1], rounded down (the code's k_frac).
        lam: Scale of the merged task matrix (the paper's is 1).

    Returns:
        float32 weights of the pivot's shape.
    """
    if pivot.dim() != 2:
        return add_mean(pivot, sources, lam=lam)
    matrices = [matrix for matrix in task_matrices(pivot, sources) if bool(matrix.any())]
    if not matrices:
        return pivot
    differ = spread_of(matrices) > spread
    covariances = estimate(matrices, ridge, normalised=differ)
    prior = 1 / (_mean_square(matrices) + _TINY) if differ else 1.0
    solution = solve(matrices, covariances, prior)
    if differ:
        residual = unexplained(matrices, covariances)
        rank = int(min(pivot.shape) * refined)
        leading = thin_svd(residual + solution, floor=rounding_norm(pivot, sources), rank=rank)
        solution = solution + with_equal_values(leading)
    return add_change(pivot, solution, lam=lam)


def spread_of(matrices: Sequence[Tensor]) -> float:
    """Measure how widely the sizes of task matrices differ; 0 for a single one.

    Returns:
        Variance of the logarithms of the squared norms over their squared mean.
    """
    logs = [math.log(float(matrix.square().sum()) + _TINY) for matrix in matrices]
    if len(logs) == 1:
        return 0.0
    return statistics.variance(logs) / (statistics.fmean(logs) ** 2 + _TINY)


def estimate(matrices: Sequence[Tensor], ridge: float, *, normalised: bool) -> Covariances:
    """Estimate each task's covariance of the inputs by its centred task matrix.

    Args:
        matrices: Task matrices X_t, float64, (m, n) each, none of them zero.
        ridge: Added to each diagonal, over the trace where ``normalised``.
        normalised: Divide each covariance by its trace.
    """
    roots, scales = [], []
    for matrix in matrices:
        centred = matrix - matrix.mean(dim=0, keepdim=True)
        scales.append(float(centred.square().sum()) + _TINY if normalised else 1.0)
        roots.append(centred / math.sqrt(scales[-1]))
    return Covariances(roots, scales, [ridge / scale for scale in scales])


def solve(matrices: Sequence[Tensor], covariances: Covariances, prior: float) -> Tensor:
    """Return (sum X_t (Sigma_t + e_t I)) (sum (Sigma_t + e_t I) + prior 1 c^T)^-1.

    X_t are the centred task matrices here, c^T is the mean row of sum Sigma_t (the paper's
    structural prior).

    Args:
        matrices: Task matrices, float64, (m, n) each.
        covariances: Theirs.
        prior: Weight of the mean row.
    """
    stacked = torch.cat(covariances.roots)
    weighted = torch.zeros_like(matrices[0])
    for root, scale, e in zip(*covariances, strict=True):
        weighted += math.sqrt(scale) * (times_gram(root, root) + e * root)
    mean_row = (stacked.sum(dim=1, keepdim=True).T @ stacked) / stacked.shape[1]
    solved = times_inverse(torch.cat([weighted, mean_row]), stacked, sum(covariances.ridges))
    without_prior, row = solved[:-1], prior * solved[-1:]
    return without_prior - without_prior.sum(dim=1, keepdim=True) * row / (1 + row.sum())


def times_inverse(rows: Tensor, stacked: Tensor, ridge: float) -> Tensor:
    """Return rows (K^T K + ridge I)^-1, by the smaller Gram matrix of K (Woodbury's identity).

    Args:
        rows: float64, (r, n).
        stacked: K, float64, (s, n).
        ridge: Above 0.

    Returns:
        float64, (r, n).
    """
    is_tall = stacked.shape[0] >= stacked.shape[1]
    gram = stacked.T @ stacked if is_tall else stacked @ stacked.T
    gram.diagonal().add_(ridge)
    right = rows if is_tall else rows @ stacked.T
    solved: Tensor = torch.linalg.solve(gram, right, left=False)
    return solved if is_tall else (rows - solved @ stacked) / ridge


def unexplained(matrices: Sequence[Tensor], covariances: Covariances) -> Tensor:
    """Sum the task matrices times what their covariances have over the mean.

    As in the authors' code, the mean has the ridges and the covariances have not.

    Args:
        matrices: Task matrices, not centred, float64, (m, n) each.
        covariances: Theirs.
    """
    total, n_tasks = sum_of(matrices), len(matrices)
    residual = -(sum(covariances.ridges) / n_tasks) * total
    for matrix, root in zip(matrices, covariances.roots, strict=True):
        residual += times_gram(matrix - total / n_tasks, root)
    return residual


def _mean_square(matrices: Sequence[Tensor]) -> float:
    """Average the squared norms."""
    return statistics.fmean(float(matrix.square().sum()) for matrix in matrices)
