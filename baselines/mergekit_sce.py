"""SCE as mergekit defines it: Select-Compute-Erase with its thresholds and its divisor.

Wan et al., 2024, FuseChat, https://arxiv.org/abs/2408.07990; definition of mergekit 0.1.5, written
anew. Per tensor: select, weigh by the mean squares, erase, divide by the surviving weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seme.checks import check_between, check_finite
from seme.elementwise import add_change
from seme.interface import Site, checked_by, whole_tensor

_SMALL = 1e-6
"""Sum of the mean squares under which all sources weigh alike, and least divisor."""


def check(*, tau: float, lam: float) -> None:
    """Demand a share in [0, 1] and a finite number."""
    check_between("tau", tau, 0, 1)
    check_finite("lam", lam)


@whole_tensor(temporaries=12, per_source=3)
@checked_by(check)
def merge(
    pivot: Tensor, sources: Sequence[Tensor], _site: Site, /, *, tau: float, lam: float
) -> Tensor:
    """Add the selected, weighted and sign-consistent task vectors to the pivot.

    Selected is the share ``tau`` of the elements whose variance is not zero; a zero sum elects
    plus; sums run in float64 and are rounded once, variances are ranked in float32 as there.

    Args:
        pivot: float32 weights of a whole tensor, any shape. Never written to.
        sources: float32 weights, each shaped like ``pivot``, in any order.
        tau: Share selected, in [0, 1] (mergekit's select_topk).
        lam: Scale of the merged task vector; mergekit adds it unchanged, 1.

    Returns:
        float32 weights of the pivot's shape.
    """
    tv = [source.double() - pivot.double() for source in sources]
    if tau < 1:
        selected = _selected(torch.stack([s - pivot for s in sources]), tau)
        tv = [torch.where(selected, values, 0.0) for values in tv]
    energies = torch.stack([values.square().mean() for values in tv])
    total = energies.sum()
    eta = torch.full_like(energies, 1 / len(tv)) if total < _SMALL else energies / total
    elected = torch.where(sum(tv[1:], start=tv[0]) >= 0, 1.0, -1.0)
    change, divisor = torch.zeros_like(tv[0]), torch.zeros_like(tv[0])
    for values, weight in zip(tv, eta, strict=True):
        agrees = values.sign() == elected
        change += torch.where(agrees, values, 0.0) * weight
        divisor += agrees * weight
    return add_change(pivot, change / divisor.clamp_(min=_SMALL) * lam)


def _selected(tv: Tensor, tau: float) -> Tensor:
    """Mask the elements that vary most; (n_sources, *shape) to (*shape)."""
    variances = torch.var(tv, dim=0, unbiased=False).reshape(-1)
    count = int(int(torch.count_nonzero(variances)) * tau)
    selected = torch.zeros_like(variances, dtype=torch.bool)
    selected[torch.argsort(variances, descending=True, stable=True)[:count]] = True
    return selected.view(tv.shape[1:])
