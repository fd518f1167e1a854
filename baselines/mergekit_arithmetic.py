"""Weighted task vectors as mergekit defines them: its TIES, DARE, DELLA and Breadcrumbs.

Goddard et al., 2024, https://arxiv.org/abs/2403.13257, and the methods' own papers; definitions of
mergekit 0.1.5, written anew. Per tensor: trim each task vector to a density of its own, restore
its L1 norm, weigh it, elect signs by the weighted sum, add, divide by the weights, scale.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from baselines.coefficients import check_weights, weights_or_ones
from baselines.della import keep_probabilities, prune_factors
from baselines.gram import Origin
from seme.checks import check_between, check_choice, check_finite, check_switch
from seme.elementwise import add_change
from seme.interface import Site, checked_by, whole_tensor

Trim = Literal["none", "magnitude", "outliers", "random", "rank"]
"""Elements left out of a task vector: none, the smallest elements (TIES), the smallest and the
``gamma`` largest (Breadcrumbs), any by chance (DARE), the small ones more often (DELLA)."""

_SMALL_NORM = 1e-7
"""L1 norm under which a task vector is not rescaled."""
_SMALL_SUM = 1e-8
"""Magnitude of the weights' sum under which nothing is divided."""
_RUN = 1 << 17
"""Elements summed at one time."""


def check(
    *,
    origin: Origin,
    trim: Trim,
    densities: Sequence[float] | None,
    gamma: float,
    epsilon: float,
    rescale: bool,
    weights: Sequence[float] | None,
    elect: bool,
    normalize: bool,
    lam: float,
    n_sources: int,
) -> None:
    """Demand known steps, one density in [0, 1] and one weight per source, or None."""
    check_choice("origin", origin, get_args(Origin))
    check_choice("trim", trim, get_args(Trim))
    if densities is not None and (
        not isinstance(densities, Sequence) or len(densities) != n_sources
    ):
        raise ValueError(
            f"densities must be null or one share per source, {n_sources} of them, "
            f"got {densities!r}"
        )
    for i, density in enumerate(densities or ()):
        check_between(f"densities[{i}]", density, 0, 1)
        if trim == "rank" and 0 < density < 1 and not epsilon < density < 1 - epsilon:
            raise ValueError(
                f"epsilon must leave densities[{i}] +- epsilon in (0, 1), got {epsilon!r}; the "
                f"density is {density!r}"
            )
    check_between("gamma", gamma, 0, 1)
    check_between("epsilon", epsilon, 0, 1)
    for name, switch in (("rescale", rescale), ("elect", elect), ("normalize", normalize)):
        check_switch(name, switch)
    check_weights(weights, n_sources)
    check_finite("lam", lam)


@whole_tensor(temporaries=12, per_source=4)
@checked_by(check)
def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    site: Site,
    /,
    *,
    origin: Origin,
    trim: Trim,
    densities: Sequence[float] | None,
    gamma: float,
    epsilon: float,
    rescale: bool,
    weights: Sequence[float] | None,
    elect: bool,
    normalize: bool,
    lam: float,
) -> Tensor:
    """Add the weighted, trimmed task vectors to the pivot.

    Scope of the trim: the tensor. Magnitudes are ranked in float32 as there, ties by index; sums
    run in float64 and are rounded once. The random steps draw from the
    numbers of this project: the same law, other draws.

    Args:
        pivot: Pre-trained float32 weights of a whole tensor, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``. Their order matters to
            the random steps only.
        site: Seeds the random steps by run seed, tensor name and source index.
        origin: ``pivot``, or ``zero``: weights in place of task vectors, added to nothing.
        trim: See :data:`Trim`.
        densities: Share kept of each task vector, in [0, 1]; None keeps all.
        gamma: Share of largest magnitudes left out by ``outliers``, less where the density
            leaves no room.
        epsilon: Half the width of the keep probabilities of ``rank``.
        rescale: Restore the L1 norm that a task vector had before the trim.
        weights: One finite number per source, before the election; None is 1 for all.
        elect: Leave out what disagrees with the sign of the weighted sum; a zero sum elects
            plus.
        normalize: Divide by the weights of the values that were added; by 1 where they cancel.
        lam: Scale of the result (mergekit's lambda).

    Returns:
        float32 weights of the pivot's shape.
    """
    start = pivot if origin == "pivot" else torch.zeros_like(pivot)
    shares = [1.0] * len(sources) if densities is None else densities
    coefficients = torch.tensor(weights_or_ones(weights, len(sources)))
    weighted = []
    for index, (source, density) in enumerate(zip(sources, shares, strict=True)):
        kept = _kept(source - start, trim, density, site, index, gamma=gamma, epsilon=epsilon)
        tv = source.double() - start.double()
        if kept is not None:
            tv = _masked(tv, kept, rescale=rescale)
        weighted.append(tv * float(coefficients[index].double()))
    if elect:
        agrees = _agreeing(weighted)
        change = sum(
            (torch.where(a, w, 0.0) for w, a in zip(weighted, agrees, strict=True)),
            start=torch.zeros_like(weighted[0]),
        )
        divisor = torch.zeros_like(pivot)
        for weight, agree in zip(coefficients, agrees, strict=True):
            divisor += weight * agree
        divisor[divisor == 0] = 1
    else:
        change = sum(weighted, start=torch.zeros_like(weighted[0]))
        divisor = coefficients.sum()
        divisor = torch.where(divisor.abs() < _SMALL_SUM, 1.0, divisor)
    if normalize:
        change = change / divisor.double().to(change.device)
    return add_change(start, change * lam)


def _kept(
    tv: Tensor,
    trim: Trim,
    density: float,
    site: Site,
    source: int,
    *,
    gamma: float,
    epsilon: float,
) -> Tensor | None:
    """Mask the elements of a float32 task vector that survive; None where all do."""
    if trim == "none" or density >= 1:
        return None
    if density <= 0 or tv.numel() == 0:
        return torch.zeros_like(tv, dtype=torch.bool)
    if trim == "random":
        return site.bernoulli_mask(source + 1, tv.shape, density)[source].to(tv.device)
    if trim == "rank":
        return _drawn_by_rank(tv, density, epsilon, site, source)
    n = tv.numel()
    descending = torch.argsort(tv.abs().reshape(-1), descending=True, stable=True)
    if trim == "magnitude":
        chosen = descending[: max(1, int(density * n))]
    else:
        n_kept = int(density * n)
        n_largest = min(int(gamma * n), n - n_kept)
        chosen = descending[n_largest : n_largest + n_kept]
    kept = torch.zeros(n, dtype=torch.bool, device=tv.device)
    kept[chosen] = True
    return kept.view(tv.shape)


def _drawn_by_rank(
    tv: Tensor, density: float, epsilon: float, site: Site, source: int
) -> Tensor:
    """Draw what survives, each row's largest elements most likely."""
    rows = tv.abs().reshape(len(tv) if tv.dim() > 1 else 1, -1)
    probabilities = keep_probabilities(rows.shape[1], density, epsilon)
    key = f"{site.seed}\0{site.name}\0{source}\0rank".encode()
    digest = hashlib.blake2b(key, digest_size=16).digest()
    stream = np.random.PCG64(int.from_bytes(digest, "little"))
    draws = stream.random_raw(rows.numel()).reshape(rows.shape)
    return (prune_factors(rows, probabilities, draws) > 0).view(tv.shape)


def _masked(tv: Tensor, kept: Tensor, *, rescale: bool) -> Tensor:
    """Trim a float64 task vector and, if wanted, restore its L1 norm."""
    masked = torch.where(kept, tv, 0.0)
    if not rescale:
        return masked
    before, after = _l1_norm(tv), _l1_norm(masked)
    if before < _SMALL_NORM or after < _SMALL_NORM:
        return masked
    return masked * (before / after)


def _l1_norm(tensor: Tensor) -> float:
    flat = tensor.reshape(-1)
    return math.fsum(float(run.abs().sum()) for run in torch.split(flat, _RUN))


def _agreeing(weighted: Sequence[Tensor]) -> list[Tensor]:
    """Mask, for each weighted task vector, the values that carry the sign of the sum."""
    total = sum(weighted[1:], start=weighted[0])
    elected = torch.where(total >= 0, 1.0, -1.0)
    return [values.sign() == elected for values in weighted]
