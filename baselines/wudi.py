"""WUDI in closed form: the matrix that interferes least with every task's inputs.

Cheng et al., 2025, Whoever Started the Interference Should End It,
https://arxiv.org/abs/2503.08099, whose loss the paper minimises by Adam; its minimiser in closed
form is in Wei et al., 2026, https://arxiv.org/abs/2606.07289.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from baselines.task_matrices import (
    Vocabulary,
    add_change,
    add_mean,
    check_vocabulary,
    is_matrix,
    leading_eigenvectors,
    rounding_norm,
    sum_of,
    task_matrices,
)
from seme.checks import check_finite
from seme.interface import Site, checked_by, whole_tensor

Filter = Callable[[Tensor], Tensor]
"""Shares in [0, 1] to which directions are solved for, by their eigenvalues, both (k,)."""


def check(*, lam: float, vocabulary: Vocabulary) -> None:
    """Demand a finite ``lam`` and a known treatment of embeddings and LM heads."""
    check_finite("lam", lam)
    check_vocabulary(vocabulary)


@whole_tensor(temporaries=10, per_source=26, choice=is_matrix)
@checked_by(check)
def merge(pivot: Tensor, sources: Sequence[Tensor], _site: Site, /, *, lam: float) -> Tensor:
    """Add ``lam`` times the minimiser of the interference to the pivot.

    The minimum itself, not the point that some 300 steps of Adam from the sum reach (paper);
    SWUDI's authors report lower scores for it. Directions of the inputs in which all task matrices are zero but for rounding stay zero.

    Args:
        pivot: Pre-trained float32 weights, (m, n), or a flat block of what is no matrix. Never
            written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``.
        lam: Scale of the merged task matrix (ours; the paper's is 1).

    Returns:
        float32 weights of the pivot's shape.
    """
    if pivot.dim() != 2:
        return add_mean(pivot, sources, lam=lam)
    change = least_interference(
        task_matrices(pivot, sources), torch.ones_like, floor=rounding_norm(pivot, sources)
    )
    return add_change(pivot, change, lam=lam)


def least_interference(matrices: Sequence[Tensor], share: Filter, *, floor: float) -> Tensor:
    """Move the sum of task matrices to the minimiser, each direction to a share of the way.

    With task matrices X_t, C = sum X_t^T X_t / ||X_t||^2 and D = sum X_t X_t^T X_t / ||X_t||^2
    the interference sum ||(X - X_t) X_t^T||^2 / ||X_t||^2 is least at X = D C^+. With the
    eigenvectors v and eigenvalues l of C, the result is
    S + sum share(l) (D v / l - S v) v^T, where S is the sum of the X_t.

    Args:
        matrices: Task matrices, float64, (m, n) each. Those of norm 0 take no part.
        share: Of the way in every direction, given the eigenvalues, descending; directions
            beyond those it returns stay as in the sum.
        floor: Singular values of task matrices up to it count as zero.

    Returns:
        float64, (m, n).
    """
    changed = [matrix for matrix in matrices if bool(matrix.any())]
    total = sum_of(matrices)
    if not changed:
        return total
    norms = [float(torch.linalg.vector_norm(matrix)) for matrix in changed]
    scaled = [matrix / norm for matrix, norm in zip(changed, norms, strict=True)]
    is_wide = sum(matrix.shape[0] for matrix in scaled) < total.shape[1]
    problem = _by_tasks(scaled, norms) if is_wide else _by_inputs(scaled, norms, total)
    eigenvalues, vectors = leading_eigenvectors(problem.gram, floor=floor / max(norms))
    shares = share(eigenvalues)
    k = len(shares)
    leading, values = vectors[:, :k], eigenvalues[:k]
    shift = ((problem.target @ leading) / values - problem.total @ leading) * shares
    if is_wide:
        return total + ((shift / values) @ leading.T) @ torch.cat(scaled)
    return total + shift @ leading.T


class _Problem(NamedTuple):
    """C, D and S in coordinates of the inputs, or of the rows K of the scaled task matrices."""

    gram: Tensor
    """C = K^T K; or K K^T."""
    target: Tensor
    """D; or D K^T."""
    total: Tensor
    """S; or S K^T."""


def _by_inputs(scaled: Sequence[Tensor], norms: Sequence[float], total: Tensor) -> _Problem:
    gram, target = (
        total.new_zeros(total.shape[1], total.shape[1]),
        torch.zeros_like(total),
    )
    for matrix, norm in zip(scaled, norms, strict=True):
        of_task = matrix.T @ matrix
        gram += of_task
        target += norm * (matrix @ of_task)
    return _Problem(gram, target, total)


def _by_tasks(scaled: list[Tensor], norms: Sequence[float]) -> _Problem:
    stacked = torch.cat(scaled)
    gram = stacked @ stacked.T
    n_rows = len(scaled[0])
    total = torch.zeros_like(gram[:n_rows])
    target = torch.zeros_like(total)
    for index, norm in enumerate(norms):
        rows = slice(index * n_rows, (index + 1) * n_rows)
        total += norm * gram[rows]
        target += norm * (gram[rows, rows] @ gram[rows])
    return _Problem(gram, target, total)
