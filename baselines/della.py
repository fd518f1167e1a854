"""DELLA: drop by rank within each row, rescale the survivors, elect sign, average.

Deep et al., 2024, https://arxiv.org/abs/2406.11617, section 3: MAGPRUNE drops small elements of
a task vector more often than large ones; then TIES' election and mean, times lambda.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.row_keys import ascending
from seme.checks import check_between, check_finite, check_share
from seme.elementwise import add_change, task_vectors
from seme.interface import Site, checked_by, takes, whole_rows
from seme.kernels import ranked_draws
from seme.kernels.jit import use_numba

_RUN = 1 << 17
"""Elements, in whole rows, that are ranked at one time."""
_RANDOM_BITS = 53
_UNUSED_BITS = np.uint64(64 - _RANDOM_BITS)


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


def row_length(shape: Sequence[int], /) -> int:
    """Return the number of input features of a weight; all elements of a vector."""
    return max(math.prod(shape[1:] if len(shape) > 1 else shape), 1)


@whole_rows(row_length, per_source=6)
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
        pivot: Pre-trained float32 weights of whole rows, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``. Their order matters:
            the draws depend on it.
        site: Seeds the draws by run seed, tensor name and source index; carries the rows' length.
        density: Mean keep probability, in (0, 1]; the paper's p is ``1 - density``.
        epsilon: Half the width of the range of keep probabilities, in [0, density) and at most
            ``1 - density``; the authors' code has the width.
        lam: Scale of the mean (the paper's lambda).

    Returns:
        float32 weights of the pivot's shape.
    """
    n_columns = site.row_length
    rows = [tensor.reshape(-1, n_columns) for tensor in (pivot, *sources)]
    merged = torch.empty_like(rows[0])
    n_rows = max(_RUN // n_columns, 1)
    streams = [_stream(site, source) for source in range(len(sources))]
    probabilities = keep_probabilities(n_columns, density, epsilon)
    for start in range(0, len(merged), n_rows):
        piece = slice(start, start + n_rows)
        base, *others = (tensor[piece] for tensor in rows)
        merged[piece] = add_pruned(base, others, streams, probabilities, lam)
    return merged.view(pivot.shape)


def keep_probabilities(n: int, density: float, epsilon: float) -> NDArray[np.float64]:
    """Compute the probability of surviving by rank in a row of n elements.

    Returns:
        From ``density - epsilon`` for the smallest magnitude to ``density + epsilon`` for the
        largest, in even steps; ``density`` for the only one. Float64, (n,).
    """
    if n == 1:
        return np.array([density])
    return (density - epsilon) + 2 * epsilon * (np.arange(n) / (n - 1))


def add_pruned(
    pivot: Tensor,
    sources: Sequence[Tensor],
    streams: Sequence[np.random.PCG64],
    probabilities: NDArray[np.float64],
    scale: float,
) -> Tensor:
    """Add ``scale`` times the sign-consistent mean of pruned task vectors to rows of the pivot.

    Args:
        pivot: float32, (n_rows, n_columns). Never written to.
        sources: Of that shape.
        streams: Per source one whole number below ``2 ** 64`` is drawn for each row and rank.
        probabilities: Of surviving, by rank, (n_columns,); equal magnitudes of a row are ranked
            by index.
        scale: Of the mean.

    Returns:
        float32 of that shape.
    """
    if use_numba(pivot.device):
        limits, inverses = _limits(probabilities), 1 / probabilities
        return ranked_draws.add_pruned(pivot, sources, streams, limits, inverses, scale)
    pruned = [
        tv * prune_factors((source - pivot).abs(), probabilities, _drawn(stream, pivot))
        for tv, source, stream in zip(
            task_vectors(pivot, sources), sources, streams, strict=True
        )
    ]
    return add_change(pivot, scale * disjoint_mean(pruned))


def prune_factors(
    magnitudes: Tensor, probabilities: NDArray[np.float64], draws: NDArray[np.uint64]
) -> Tensor:
    """Compute the factor of each element: zero, or the inverse of its keep probability.

    Args:
        magnitudes: Of a task vector, float32, (n_rows, n_columns).
        probabilities: As in :func:`add_pruned`.
        draws: One whole number below ``2 ** 64`` per row and rank, of that shape.

    Returns:
        float64, of that shape, on its device.
    """
    kept = draws >> _UNUSED_BITS < _limits(probabilities)
    by_rank = torch.from_numpy(np.where(kept, 1 / probabilities, 0.0))
    order = torch.from_numpy(ascending(magnitudes))
    return torch.empty_like(by_rank).scatter_(1, order, by_rank).to(magnitudes.device)


def _drawn(stream: np.random.PCG64, like: Tensor) -> NDArray[np.uint64]:
    """Draw a word for each element."""
    words: NDArray[np.uint64] = stream.random_raw(like.numel()).reshape(like.shape)
    return words


def _limits(probabilities: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Compute the numbers of 53 bits below which a draw keeps an element."""
    return (probabilities * 2.0**_RANDOM_BITS).astype(np.uint64)


def disjoint_mean(tv: Sequence[Tensor]) -> Tensor:
    """Average, per element, the float64 values that carry the sign of their sum."""
    sign = sum(tv[1:], start=tv[0]).sign()
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for values in tv:
        size = (values * sign).clamp_(min=0)
        total += size
        count += size > 0
    return total / count.clamp_(min=1) * sign


def _stream(site: Site, source: int) -> np.random.PCG64:
    """Begin the draws of a source at a place of a tensor: PCG64, whose stream no version changes."""
    key = f"{site.seed}\0{site.name}\0{source}".encode()
    stream = np.random.PCG64(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest()))
    return stream.advance(site.start)
