"""SCE: Select, Compute, Erase, without any alignment.

Wan et al., 2024, FuseChat, https://arxiv.org/abs/2408.07990. The steps, and where
implementations of them differ, are in :mod:`seme.sce`, which SeMe shares.
"""

from collections.abc import Sequence

from torch import Tensor

from seme.interface import Site, checked_by, prepared_by
from seme.sce import Select, SelectCompute, check_fusion, erase_and_add
from seme.streaming import Models


def prepare(models: Models, /, *, tau: float) -> SelectCompute:
    """Select the elements of each tensor and weigh the sources, just before its walk.

    Args:
        models: Pivot and sources.
        tau: Share of the elements of a tensor that is selected, in (0, 1].
    """
    return SelectCompute(len(models.sources), tau=tau)


@prepared_by(prepare)
@checked_by(check_fusion)
def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    site: Site,
    /,
    *,
    lam: float,
    renormalize: bool,
    select: Select,
) -> Tensor:
    """Fuse the sources into the pivot.

    Args:
        pivot: float32 weights the sources are merged into, any shape. Never written to.
        sources: float32 weights, each shaped like ``pivot``. Their order does not matter.
        site: Carries the selection within the tensor and the sources' coefficients.
        lam: Scale of the merged task vector; the paper adds it unchanged, 1.
        renormalize: Divide by the surviving coefficients per element (FuseChat's code).
        select: Mask the ``deltas`` (paper) or the ``coefficients`` only (FuseChat's code).

    Returns:
        float32 weights of the pivot's shape.
    """
    return erase_and_add(pivot, sources, site, lam=lam, renormalize=renormalize, select=select)
