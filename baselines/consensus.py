"""Consensus merging (TALL masks): add the task vectors where enough of them matter.

Wang et al., 2024, https://arxiv.org/abs/2405.07813, section 4: an element matters to a task
whose vector there is large beside the sum of the others'; elements that matter to fewer than k
tasks are left out of the multi-task vector.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seme.checks import check_finite, check_whole
from seme.elementwise import add_weighted, task_vectors
from seme.interface import Site, checked_by, takes
from seme.kernels import votes
from seme.kernels.jit import use_numba


def check(*, threshold: float, min_votes: int, lam: float, n_sources: int) -> None:
    """Demand a threshold, votes that the sources can give, and a finite number."""
    check_finite("threshold", threshold, least=0)
    check_whole("min_votes", min_votes, least=1)
    check_finite("lam", lam)
    if min_votes > n_sources:
        raise ValueError(
            f"min_votes must be at most the number of sources, {n_sources}, got {min_votes}: "
            "no element would be kept"
        )


@takes(min_sources=2)
@checked_by(check)
def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    _site: Site,
    /,
    *,
    threshold: float,
    min_votes: int,
    lam: float,
) -> Tensor:
    """Add ``lam`` times the masked sum of the task vectors to the pivot.

    Elementwise, no trim, no rescaling, no sign election; a sum and not a mean.

    Args:
        pivot: Pre-trained float32 weights, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``; at least two, in any
            order.
        threshold: The paper's lambda_t, one for all tasks, at least 0 (the paper chooses one per
            task on validation data, from 0.2 to 0.6).
        min_votes: Tasks that an element must matter to, from 1 on (the paper's k).
        lam: Scale of the masked sum (the paper's alpha).

    Returns:
        float32 weights of the pivot's shape.
    """
    if use_numba(pivot.device):
        kept = votes.enough(pivot, sources, threshold, min_votes)
    else:
        kept = count_votes(task_vectors(pivot, sources), threshold) >= min_votes
    ones = [1.0] * len(sources)
    return add_weighted(pivot, sources, weights=ones, scale=lam, kept=kept.unsqueeze(0))


def count_votes(tv: Sequence[Tensor], threshold: float) -> Tensor:
    """Count, per element, the tasks it matters to: ``|tv_t| > threshold |sum - tv_t|``.

    Args:
        tv: float64 task vectors, one per source, of one shape.
        threshold: See :func:`merge`.

    Returns:
        Whole numbers of that shape; a zero of a task vector is no vote.
    """
    total = torch.zeros_like(tv[0])
    for values in tv:
        total += values
    n_votes = torch.zeros(total.shape, dtype=torch.int64, device=total.device)
    for values in tv:
        n_votes += values.abs() > threshold * (total - values).abs()
    return n_votes
