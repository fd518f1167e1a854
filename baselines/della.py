"""DELLA: drop by rank within each row, rescale the survivors, elect sign, average.

Deep et al., 2024, https://arxiv.org/abs/2406.11617, section 3: MAGPRUNE drops small elements of
a task vector more often than large ones; then TIES' election and mean, times lambda.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from seme.checks import check_between, check_finite, check_share
from seme.elementwise import add_change, task_vectors
from seme.interface import Site, checked_by, takes, whole_tensor

_RUN = 1 << 17
"""Elements, in whole rows, that are ranked at one time."""


def check(*, density: float, epsilon: float, lam: float) -> None:
    """Demand keep probabilities in (0, 1], and a finite number."""
    check_share("density", density)
    check_between("epsilon", epsilon, 0, 1)
    check_finite("lam", lam)
    if epsilon >= density or density + epsilon > 1:
        raise ValueError(
            "epsilon must be less than density and at most 1 - density, so that all keep "
            f"probabilities are in (0, 1], got {epsilon!r}; density is {density!r}"
        )


@whole_tensor(temporaries=0)
@takes(order_matters=True)
@checked_by(check)
def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    site: Site,
    /,
    *,
    density: float,
    epsilon: float,
    lam: float,
) -> Tensor:
    """Add ``lam`` times the sign-consistent mean of the pruned task vectors to the pivot.

    Survivors are divided by their own keep probability, as in the paper (mergekit restores the
    L1 norm of each tensor by one factor). The sign is that of the unweighted sum of the pruned,
    rescaled values; the mean divides by the number of values that carry it; zeros neither elect
    nor count.

    Args:
        pivot: Pre-trained float32 weights of a whole tensor, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``. Their order matters:
            the draws depend on it.
        site: Seeds the draws by run seed, tensor name and source index.
        density: Mean keep probability, in (0, 1]; the paper's p is ``1 - density``.
        epsilon: Half the width of the range of keep probabilities, in [0, density) and at most
            ``1 - density``; the authors' code has the width.
        lam: Scale of the mean (the paper's lambda).

    Returns:
        float32 weights of the pivot's shape.
    """
    n_columns = pivot.shape[1:].numel() if pivot.dim() > 1 else pivot.numel()
    rows = [tensor.reshape(-1, n_columns) for tensor in (pivot, *sources)]
    merged = torch.empty_like(rows[0])
    n_rows = max(_RUN // n_columns, 1)
    streams = [_stream(site, source) for source in range(len(sources))]
    for start in range(0, len(merged), n_rows):
        piece = slice(start, start + n_rows)
        base, *others = (tensor[piece] for tensor in rows)
        pruned = []
        for tv, draws in zip(task_vectors(base, others), streams, strict=True):
            probability = keep_probability(tv, density, epsilon)
            kept = _uniform(draws, tv.shape).to(tv.device) < probability
            pruned.append(torch.where(kept, tv / probability, 0.0))
        merged[piece] = add_change(base, lam * disjoint_mean(pruned))
    return merged.view(pivot.shape)


def keep_probability(tv: Tensor, density: float, epsilon: float) -> Tensor:
    """Compute the probability of surviving by rank of magnitude within each row.

    It grows linearly with the rank, from ``density - epsilon`` for the smallest magnitude of a
    row to ``density + epsilon`` for the largest; a row of one element has ``density``. Equal
    magnitudes are ranked by index.

    Args:
        tv: Task vector, (n_rows, n_columns).
        density: See :func:`merge`; likewise ``epsilon``.
        epsilon: Half the width of the range.

    Returns:
        float64, of that shape.
    """
    last = tv.shape[1] - 1
    if last == 0:
        return torch.full_like(tv, density, dtype=torch.float64)
    order = tv.abs().argsort(dim=1, stable=True)
    steps = torch.arange(last + 1, dtype=torch.float64, device=tv.device) / last
    by_rank = (density - epsilon) + 2 * epsilon * steps
    return torch.empty_like(tv, dtype=torch.float64).scatter_(1, order, by_rank.expand_as(tv))


def disjoint_mean(tv: Sequence[Tensor]) -> Tensor:
    """Average, per element, the float64 values that carry the sign of their sum."""
    values = torch.stack(list(tv))
    agrees = values * values.sum(dim=0).sign() > 0
    return torch.where(agrees, values, 0.0).sum(dim=0) / agrees.sum(dim=0).clamp_(min=1)


def _stream(site: Site, source: int) -> np.random.PCG64:
    """Begin the draws of a source in a tensor: PCG64, whose stream no version changes."""
    key = f"{site.seed}\0{site.name}\0{source}".encode()
    return np.random.PCG64(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest()))


def _uniform(stream: np.random.PCG64, shape: torch.Size) -> Tensor:
    """Draw float64 numbers in [0, 1), multiples of 2 ** -53."""
    words = stream.random_raw(shape.numel())
    return torch.from_numpy((words >> np.uint64(11)) * 2.0**-53).view(shape)
