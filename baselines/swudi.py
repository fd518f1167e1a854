"""SWUDI: WUDI in closed form, with small eigenvalues filtered out.

Wei et al., 2026, Closed-Form Spectral Regularization for Multi-Task Model Merging,
https://arxiv.org/abs/2606.07289. Per matrix: sum the task matrices; move the sum
towards the least interference as far as gradient flow does in a given time, and only in the
leading directions of the inputs.
"""

import math
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
    task_matrices,
)
from baselines.wudi import least_interference
from seme.checks import check_finite, check_share
from seme.interface import Site, checked_by, whole_tensor


def check(*, time: float, rank_share: float, lam: float, vocabulary: Vocabulary) -> None:
    """Demand a time of at least 0, a share ``rank_share``, a finite ``lam``, a known treatment."""
    check_finite("time", time, least=0)
    check_share("rank_share", rank_share)
    check_finite("lam", lam)
    check_vocabulary(vocabulary)


@whole_tensor(temporaries=10, per_source=26, choice=is_matrix)
@checked_by(check)
def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    _site: Site,
    /,
    *,
    time: float,
    rank_share: float,
    lam: float,
) -> Tensor:
    """Add ``lam`` times the filtered minimiser of the interference to the pivot.

    A direction of eigenvalue l moves by the share 1 - exp(-l time) from the sum of the task
    matrices to the minimiser; the eigenvalues sum to the number of tasks. At time 0 that is
    task arithmetic with all weights 1. The paper's adaptive ranks (SWUDI-A) are not here.

    Args:
        pivot: Pre-trained float32 weights, (m, n), or a flat block of what is no matrix. Never
            written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``.
        time: Of the gradient flow, at least 0 (the paper's t).
        rank_share: Share of the n input directions that may move, in (0, 1], rounded up; those
            of the largest eigenvalues (the paper's rho).
        lam: Scale of the merged task matrix (ours; the paper's is 1).

    Returns:
        float32 weights of the pivot's shape.
    """
    if pivot.dim() != 2:
        return add_mean(pivot, sources, lam=lam)
    rank = math.ceil(rank_share * pivot.shape[1])

    def share(eigenvalues: Tensor) -> Tensor:
        return -torch.expm1(-time * eigenvalues[:rank])

    change = least_interference(
        task_matrices(pivot, sources), share, floor=rounding_norm(pivot, sources)
    )
    return add_change(pivot, change, lam=lam)
