"""SCE: Select, Compute, Erase, without any alignment.

Wan et al., 2024, FuseChat, https://arxiv.org/abs/2408.07990. The steps, and where
implementations of them differ, are in :mod:`seme.sce`, which SeMe shares.
"""

from collections.abc import Sequence

from torch import Tensor

from seme.interface import Site, prepared_by
from seme.sce import Select, Surveys, erase_and_add
from seme.streaming import Models


def prepare(models: Models, /, *, tau: float) -> Surveys:
    """Select the elements of each tensor and weigh the sources, just before its walk.

    Args:
        models: Pivot and sources.
        tau: See :func:`merge`.

    Raises:
        ValueError: If ``tau`` is out of range.
    """
    return Surveys(len(models.sources), tau=tau)


@prepared_by(prepare)
def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    site: Site,
    /,
    *,
    tau: float,  # noqa: ARG001  (belongs to the preparation)
    lam: float,
    renormalize: bool,
    select: Select,
) -> Tensor:
    """Fuse the sources into the pivot.

    Args:
        pivot: float32 weights the sources are merged into, any shape. Never written to.
        sources: float32 weights, each shaped like ``pivot``. Their order does not matter.
        site: Carries what was selected of the tensor, and the sources' coefficients.
        tau: Share of the elements of the tensor that is selected, in (0, 1].
        lam: Scale of the merged task vector (ours); the paper adds it unchanged, 1.
        renormalize: Divide by the surviving coefficients per element (FuseChat's code).
        select: Mask the ``deltas`` (paper) or the ``coefficients`` only (FuseChat's code).

    Returns:
        float32 weights of the pivot's shape.

    Raises:
        ValueError: If ``tau``, ``lam`` or ``select`` is out of range.
    """
    return erase_and_add(pivot, sources, site, lam=lam, renormalize=renormalize, select=select)
