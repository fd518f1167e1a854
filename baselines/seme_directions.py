"""SeMe over directions: select, compute and erase by singular direction; ours, nothing to tune.

Select-Compute-Erase (SCE, https://arxiv.org/abs/2408.07990, the fusion step of SeMe,
https://arxiv.org/abs/2505.20144) works on single elements, and its scale is chosen on data. Here
what is selected, weighed and kept from being counted twice are directions, and the scale follows
from a condition that every direction is to meet:

1. select: each of T task matrices keeps its min(m, n) / T leading singular directions (as
   TSV-Merge, https://arxiv.org/abs/2412.00081, does); their vectors are made orthogonal by polar
   factors, as there;
2. compute: the values along the orthogonal directions are those with which the merged task
   matrix M has u_i^T M v_i = s_i for every kept direction (u_i, s_i, v_i) of every source: none
   of them is shortened (ours; TSV-Merge leaves the values as they were, which shortens them);
3. erase: what directions share is counted once, and no value is below zero or above that which
   its direction would need by itself (ours).

Rows of embeddings and LM heads belong to one token each. Of a token the same is asked of its T
task vectors t_i as of directions: merged is the combination m of them with m . t_i = t_i . t_i, so
that orthogonal vectors are added and equal ones averaged (ours). All else gets the mean.

Symbols: m outputs, n inputs, k directions, T sources.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.task_matrices import (
    add_change,
    add_mean,
    is_matrix,
    polar_factor,
    rounding_norm,
    task_matrices,
    thin_svd,
)
from seme.interface import Site, whole_tensor

_STEPS = 300
"""Gradient steps: at condition numbers up to 20, as of experts' directions, to 1e-12."""
_ROWS = 4096
"""Tokens merged at a time."""


def is_two_dimensional(_name: str, shape: Sequence[int], /) -> bool:
    """Tell whether a tensor has directions or rows, and is needed whole."""
    return len(shape) == 2


@whole_tensor(temporaries=30, per_source=2, choice=is_two_dimensional)
def merge(pivot: Tensor, sources: Sequence[Tensor], site: Site, /) -> Tensor:
    """Add the task matrix in which no kept direction of any source is shortened.

    One source is returned as it is. Of equal sources the leading directions are kept, of tokens
    the whole row. Directions in which a task matrix is zero but for rounding take no part.

    Args:
        pivot: Pre-trained float32 weights, (m, n), or a flat block of what has another number
            of dimensions. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``.
        site: Names the tensor: embeddings and LM heads are merged token by token.

    Returns:
        float32 weights of the pivot's shape.
    """
    if pivot.dim() != 2:
        return add_mean(pivot, sources, lam=1.0)
    matrices = task_matrices(pivot, sources)
    if is_matrix(site.name, pivot.shape, vocabulary="mean"):
        change = directional_sum(matrices, floor=rounding_norm(pivot, sources))
    else:
        change = sum_by_row(matrices)
    return add_change(pivot, change, lam=1.0)


def directional_sum(matrices: Sequence[Tensor], *, floor: float) -> Tensor:
    """Sum the leading parts of matrices along orthogonal directions, none shortened.

    With U and V the singular vectors of all sources side by side, the orthogonal ones are
    U P^-1 and V Q^-1, P^2 = U^T U and Q^2 = V^T V. The condition on the values c is then
    (P * Q) c = s, elementwise product, positive semidefinite (Schur).

    Args:
        matrices: float64, (m, n) each.
        floor: Singular values up to it count as zero.

    Returns:
        float64, (m, n).
    """
    rank = max(min(matrices[0].shape) // len(matrices), 1)
    parts = [thin_svd(matrix, floor=floor, rank=rank) for matrix in matrices]
    left, values, right = (torch.cat(side, dim=-1) for side in zip(*parts, strict=True))
    outputs, inputs = polar_factor(left), polar_factor(right)
    overlaps = (left.T @ outputs) * (right.T @ inputs)
    return (outputs * bounded_solution(overlaps, values)) @ inputs.T


def sum_by_row(matrices: Sequence[Tensor]) -> Tensor:
    """Combine matrices row by row so that no source's row is shortened.

    Args:
        matrices: float64, (m, n) each.

    Returns:
        float64, (m, n).
    """
    merged = torch.empty_like(matrices[0])
    for start in range(0, len(merged), _ROWS):
        rows = torch.stack([m[start : start + _ROWS] for m in matrices], dim=1)  # (rows, T, n)
        overlaps = rows @ rows.mT
        weights = bounded_solution(overlaps, overlaps.diagonal(dim1=-2, dim2=-1))
        merged[start : start + _ROWS] = (weights.unsqueeze(-2) @ rows).squeeze(-2)
    return merged


def bounded_solution(overlaps: Tensor, needed: Tensor) -> Tensor:
    """Solve overlaps c = needed within 0 <= c_i <= needed_i / overlaps_ii.

    Where no solution lies within, the nearest in the norm of the overlaps: the least of
    c^T overlaps c / 2 - needed^T c, by accelerated projected gradient from the upper bound
    (Beck and Teboulle, 2009), on overlaps scaled to a diagonal of ones.

    Args:
        overlaps: float64, positive semidefinite, (..., k, k).
        needed: float64, not negative, (..., k).

    Returns:
        float64, (..., k); zero where the overlap of a direction with itself is.
    """
    if needed.numel() == 0:
        return needed
    diagonal = overlaps.diagonal(dim1=-2, dim2=-1)
    scales = torch.where(diagonal > 0, diagonal, torch.inf).rsqrt()
    matrix = overlaps * scales.unsqueeze(-1) * scales.unsqueeze(-2)
    largest = matrix.abs().sum(dim=-1).amax(dim=-1, keepdim=True)  # bounds the eigenvalues
    step = 1 / largest.clamp(min=1)
    bounds = needed * scales
    solution = ahead = bounds
    speed = 1.0
    for _ in range(_STEPS):
        gradient = (matrix @ ahead.unsqueeze(-1)).squeeze(-1) - bounds
        previous, solution = solution, (ahead - step * gradient).clamp(min=0).minimum(bounds)
        faster = (1 + (1 + 4 * speed**2) ** 0.5) / 2
        ahead = solution + (speed - 1) / faster * (solution - previous)
        speed = faster
    return solution * scales
