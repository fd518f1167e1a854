"""Iso-CTS: common directions of all tasks, specific ones of each, all with one singular value.

Marczak et al., 2025, No Task Left Behind, https://arxiv.org/abs/2502.04959, Iso-CTS; the authors'
code is https://github.com/danielm1405/iso-merging. Per matrix: keep the leading directions of the
sum, and the leading directions of what those leave of each task; put all side by side; make both
sides orthogonal; give every direction the mean of the singular values.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.task_matrices import (
    ThinSvd,
    Vocabulary,
    add_change,
    add_mean,
    check_vocabulary,
    is_matrix,
    polar_factor,
    rounding_norm,
    sum_of,
    task_matrices,
    thin_svd,
    with_equal_values,
)
from seme.checks import check_finite, check_share
from seme.interface import Site, checked_by, whole_tensor


def check(*, common: float, lam: float, vocabulary: Vocabulary) -> None:
    """Demand a share ``common``, a finite ``lam``, a known treatment of embeddings."""
    check_share("common", common)
    check_finite("lam", lam)
    check_vocabulary(vocabulary)


@whole_tensor(temporaries=28, per_source=2, choice=is_matrix)
@checked_by(check)
def merge(
    pivot: Tensor, sources: Sequence[Tensor], _site: Site, /, *, common: float, lam: float
) -> Tensor:
    """Add ``lam`` times the isotropic matrix of common and task-specific directions.

    Directions in which a task matrix is zero but for rounding take no part and do not count in
    the mean (ours, as in Iso-C).

    Args:
        pivot: Pre-trained float32 weights, (m, n), or a flat block of what is no matrix. Never
            written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``.
        common: Share of the min(m, n) directions that is taken from the sum, in (0, 1]; the
            rest is divided evenly among the tasks, rounded to whole directions.
        lam: Scale of the merged task matrix (the paper's alpha).

    Returns:
        float32 weights of the pivot's shape.
    """
    if pivot.dim() != 2:
        return add_mean(pivot, sources, lam=lam)
    svd = directions(task_matrices(pivot, sources), common, floor=rounding_norm(pivot, sources))
    orthogonal = ThinSvd(polar_factor(svd.left), svd.values, polar_factor(svd.right))
    return add_change(pivot, with_equal_values(orthogonal), lam=lam)


def directions(matrices: Sequence[Tensor], common: float, *, floor: float) -> ThinSvd:
    """Put the common directions and those of each task side by side; not orthogonal yet.

    Args:
        matrices: Task matrices, float64, (m, n) each.
        common: See :func:`merge`.
        floor: Singular values up to it count as zero.
    """
    n_common, n_specific = split(min(matrices[0].shape), len(matrices), common)
    shared = thin_svd(sum_of(matrices), floor=floor, rank=n_common)
    parts = [shared]
    for matrix in matrices:
        rest = matrix - shared.left @ (shared.left.T @ matrix)
        parts.append(thin_svd(rest, floor=floor, rank=n_specific))
    return ThinSvd(*(torch.cat(side, dim=-1) for side in zip(*parts, strict=True)))


def split(n_directions: int, n_tasks: int, common: float) -> tuple[int, int]:
    """Divide directions as the authors' code does: how many are common, and how many each task's.

    Args:
        n_directions: The smaller dimension of the matrix.
        n_tasks: Number of tasks.
        common: Share of the common ones; what rounding leaves goes to them.
    """
    rest = n_directions - int(n_directions * common)
    n_specific = min(round(rest / n_tasks), n_directions // n_tasks)
    return n_directions - n_specific * n_tasks, n_specific
