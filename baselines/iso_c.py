"""Iso-C: sum the task matrices, and make all singular values of the sum equal.

Marczak et al., 2025, No Task Left Behind, https://arxiv.org/abs/2502.04959, Iso-C; the authors'
code is https://github.com/danielm1405/iso-merging. Per matrix: add up; decompose; replace every
singular value by their mean.
"""

from collections.abc import Sequence

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
from seme.checks import check_finite
from seme.interface import Site, checked_by, whole_tensor


def check(*, lam: float, vocabulary: Vocabulary) -> None:
    """Demand a finite ``lam`` and a known treatment of embeddings and LM heads."""
    check_finite("lam", lam)
    check_vocabulary(vocabulary)


@whole_tensor(temporaries=18, per_source=2, choice=is_matrix)
@checked_by(check)
def merge(pivot: Tensor, sources: Sequence[Tensor], _site: Site, /, *, lam: float) -> Tensor:
    """Add ``lam`` times the isotropic sum of the task matrices to the pivot.

    Every direction of the sum gets the same weight, so that the mean of the singular values
    stays. Directions in which the sum is zero but for rounding stay zero, and do not count in
    the mean (ours: a full SVD returns arbitrary vectors for them, which the paper's formula
    would scale up with the others; it matters for adapters of low rank).

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
    total = sum_of(task_matrices(pivot, sources))
    isotropic = with_equal_values(thin_svd(total, floor=rounding_norm(pivot, sources)))
    return add_change(pivot, isotropic, lam=lam)
