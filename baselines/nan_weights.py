"""NAN: task arithmetic whose weights are the inverse norms of the task vectors.

Si et al., 2025, https://arxiv.org/abs/2505.16148. Only the abstract could be read: "estimates
model merging coefficients via the inverse of parameter norm". The norm of the task vector, its
scope and the scale are ours.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from baselines.gram import task_vector_energies
from baselines.metagpt import Coefficients
from seme.checks import check_finite
from seme.elementwise import add_weighted
from seme.interface import Prepared, Site, checked_by, prepared_by
from seme.streaming import Models


def prepare(models: Models, /) -> Prepared:
    """Measure the task vectors over the whole model, by one pass over the weights."""
    norms = [math.sqrt(energy) for energy in task_vector_energies(models)]
    return Coefficients(values=inverse_shares(norms))


def check(*, lam: float) -> None:
    """Demand a finite number."""
    check_finite("lam", lam)


@prepared_by(prepare)
@checked_by(check)
def merge(pivot: Tensor, sources: Sequence[Tensor], site: Site, /, *, lam: float) -> Tensor:
    """Add ``lam`` times the weighted sum of the task vectors to the pivot.

    Nothing is trimmed, no sign is elected; the weights sum to 1.

    Args:
        pivot: Pre-trained float32 weights, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``, in any order.
        site: Carries the weights, see :func:`inverse_shares`.
        lam: Scale of the weighted sum; 1 gives a weighted mean of the sources.

    Returns:
        float32 weights of the pivot's shape.
    """
    return add_weighted(pivot, sources, weights=site.prepared, scale=lam)


def inverse_shares(norms: Sequence[float]) -> tuple[float, ...]:
    """Divide the inverse norms by their sum; a task vector of norm zero has weight zero."""
    inverses = [1 / norm if norm > 0 else 0.0 for norm in norms]
    whole = math.fsum(inverses)
    return tuple(inverse / whole if whole > 0 else 0.0 for inverse in inverses)
