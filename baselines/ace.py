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
    with_equal_values,
)
from seme.checks import check_finite, check_share
from seme.interface import Site, checked_by, whole_tensor

_TINY = 1e-12
"""Added to denominators and under logarithms (authors' code)."""


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
    centred = [matrix - matrix.mean(dim=0, keepdim=True) for matrix in matrices]
    traces = [float(matrix.square().sum()) + _TINY if differ else 1.0 for matrix in centred]
    covariances = [
        (matrix.T @ matrix) / trace for matrix, trace in zip(centred, traces, strict=True)
    ]
    ridges = [ridge / trace for trace in traces]
    solution = solve(
        centred, covariances, ridges, prior=1 / _mean_square(matrices) if differ else 1.0
    )
    if differ:
        residual = _residual(matrices, covariances, ridges)
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


def solve(
    centred: Sequence[Tensor],
    covariances: Sequence[Tensor],
    ridges: Sequence[float],
    *,
    prior: float,
) -> Tensor:
    """Return (sum X_t (Sigma_t + e_t I)) (sum (Sigma_t + e_t I) + prior 1 c^T)^-1.

    Args:
        centred: X_t, float64, (m, n) each.
        covariances: Sigma_t, float64, (n, n) each; c is the mean row of their sum.
        ridges: e_t, above 0.
        prior: Weight of the mean row, added to every row (the paper's structural prior).
    """
    total = sum_of(covariances)
    total = total + prior * total.mean(dim=0, keepdim=True)
    total.diagonal().add_(sum(ridges))
    weighted = [
        matrix @ covariance + matrix * e
        for matrix, covariance, e in zip(centred, covariances, ridges, strict=True)
    ]
    solution: Tensor = torch.linalg.solve(total, sum_of(weighted), left=False)
    return solution


def _residual(
    matrices: Sequence[Tensor], covariances: Sequence[Tensor], ridges: Sequence[float]
) -> Tensor:
    """Sum the task matrices times what their covariances have over the mean, ridges included."""
    n_tasks = len(matrices)
    mean = sum_of(covariances) / n_tasks
    mean.diagonal().add_(sum(ridges) / n_tasks)
    return sum_of(
        [m @ (covariance - mean) for m, covariance in zip(matrices, covariances, strict=True)]
    )


def _mean_square(matrices: Sequence[Tensor]) -> float:
    """Average the squared norms."""
    return statistics.fmean(float(matrix.square().sum()) for matrix in matrices) + _TINY
