"""TSV-Merge: keep each task's leading singular vectors, make them orthogonal, add.

Gargiulo et al., 2025, Task Singular Vectors, https://arxiv.org/abs/2412.00081, TSV-Merge, in the
steps of https://github.com/danielm1405/iso-merging. Per matrix: decompose each task matrix; keep
its share of the directions; put those of all tasks side by side; replace both sides by their
polar factors; multiply back.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.task_matrices import (
    Vocabulary,
    add_change,
    add_mean,
    check_vocabulary,
    is_matrix,
    polar_factor,
    rounding_norm,
    task_matrices,
    thin_svd,
)
from seme.checks import check_finite
from seme.interface import Site, checked_by, whole_tensor


def check(*, lam: float, vocabulary: Vocabulary) -> None:
    """Demand a finite ``lam`` and a known treatment of embeddings and LM heads."""
    check_finite("lam", lam)
    check_vocabulary(vocabulary)


@whole_tensor(temporaries=24, per_source=2, choice=is_matrix)
@checked_by(check)
def merge(pivot: Tensor, sources: Sequence[Tensor], _site: Site, /, *, lam: float) -> Tensor:
    """Add ``lam`` times the sum of the orthogonalised leading parts of the task matrices.

    Of T task matrices (m, n) each keeps min(m, n) / T directions, rounded down, the largest
    singular values first. One task keeps all. Directions in which a task matrix is zero but
    for rounding take no part (ours: a full SVD returns arbitrary vectors for them, which the
    authors' code orthogonalises along), and each task keeps at least one direction (ours).

    Args:
        pivot: Pre-trained float32 weights, (m, n), or a flat block of what is no matrix. Never
            written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``.
        lam: Scale of the merged task matrix (the paper's alpha).

    Returns:
        float32 weights of the pivot's shape.
    """
    if pivot.dim() != 2:
        return add_mean(pivot, sources, lam=lam)
    matrices = task_matrices(pivot, sources)
    return add_change(
        pivot, orthogonal_sum(matrices, floor=rounding_norm(pivot, sources)), lam=lam
    )


def orthogonal_sum(matrices: Sequence[Tensor], *, floor: float) -> Tensor:
    """Sum the leading parts of matrices after making their singular vectors orthogonal.

    Args:
        matrices: float64, (m, n) each.
        floor: Singular values up to it count as zero.

    Returns:
        float64, (m, n).
    """
    rank = max(min(matrices[0].shape) // len(matrices), 1)
    parts = [thin_svd(matrix, floor=floor, rank=rank) for matrix in matrices]
    left, values, right = (torch.cat(side, dim=-1) for side in zip(*parts, strict=True))
    return (polar_factor(left) * values) @ polar_factor(right).T
