"""Localize-and-Stitch without data: each task's largest elements, averaged where they meet.

He et al., 2024, https://arxiv.org/abs/2408.13656, section 4.3: localize by the largest
magnitudes of the task vector (its version without data), then stitch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.ties import prepare as prepare_trim
from baselines.ties import trim
from seme.checks import check_finite, check_share
from seme.elementwise import add_change, task_vectors
from seme.interface import Prepared, Site, checked_by, prepared_by
from seme.streaming import Models


def prepare(models: Models, /, *, density: float) -> Prepared:
    """Find the threshold of each source's task vector, by streaming.

    Args:
        models: Pre-trained model and sources.
        density: Share of each task vector that is localized, in (0, 1], over the whole model.
    """
    return prepare_trim(models, density=density, scope="model", trim_ties="exact")


def check(*, density: float, lam: float) -> None:
    """Demand a share and a finite number."""
    check_share("density", density)
    check_finite("lam", lam)


@prepared_by(prepare)
@checked_by(check)
def merge(pivot: Tensor, sources: Sequence[Tensor], site: Site, /, *, lam: float) -> Tensor:
    """Add ``lam`` times the stitched task vectors to the pivot.

    An element that several sources localized is their mean, whatever the signs; one that a
    single source localized is that source's. No rescaling. Exactly ``round(density n)`` elements
    of a model are localized, never a zero, ties by index.

    Args:
        pivot: Pre-trained float32 weights, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``, in any order.
        site: Carries the thresholds, see :func:`prepare`.
        lam: Scale of the stitched task vector (ours; 1 is the paper's).

    Returns:
        float32 weights of the pivot's shape.
    """
    localized = trim(pivot, sources, site)
    total = torch.stack(task_vectors(pivot, sources, localized)).sum(dim=0)
    n_localized = localized.sum(dim=0).clamp(min=1)
    return add_change(pivot, lam * (total / n_localized))
