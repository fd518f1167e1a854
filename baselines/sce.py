"""SCE: Select, Compute, Erase, without any alignment.

Wan et al., 2024, FuseChat, https://arxiv.org/abs/2408.07990. The steps, and where
implementations of them differ, are in :mod:`seme.fusion`, which SeMe shares.
"""

from collections.abc import Sequence

from torch import Tensor

from seme.fusion import Select, select_compute_erase
from seme.types import Site


def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    _site: Site,
    /,
    *,
    tau: float,
    lam: float,
    renormalize: bool,
    select: Select,
) -> Tensor:
    """Fuse the sources into the pivot, one tensor at a time.

    Args:
        pivot: float32 weights the sources are merged into, any shape. Never written to.
        sources: float32 weights, each shaped like ``pivot``. Their order does not matter.
        tau: Share of the elements of the tensor that is selected, in (0, 1].
        lam: Scale of the merged task vector (ours); the paper adds it unchanged, 1.
        renormalize: Divide by the surviving coefficients per element (FuseChat's code).
        select: Mask the ``deltas`` (paper) or the ``coefficients`` only (FuseChat's code).

    Returns:
        float32 weights of the pivot's shape.

    Raises:
        ValueError: If ``tau``, ``lam`` or ``select`` is out of range.
    """
    return select_compute_erase(
        pivot, sources, tau=tau, lam=lam, renormalize=renormalize, select=select
    )
