"""MetaGPT: task arithmetic whose coefficients are each task vector's share of the energy.

Zhou et al., 2024, https://arxiv.org/abs/2406.11385, section 4: in closed form, for task vectors
that are orthogonal and losses that are quadratic near the pivot.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from baselines.gram import task_vector_energies
from seme.elementwise import add_weighted
from seme.interface import Prepared, Site, checked_by, prepared_by
from seme.streaming import Models, OpenTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """One coefficient per source, the same in every tensor."""

    values: tuple[float, ...]

    def at(self, _tensor: OpenTensor) -> tuple[float, ...]:
        return self.values

    def diagnostics(self) -> Mapping[str, Any]:
        """Return the coefficients of the sources, in configuration order."""
        return {"coefficients": list(self.values)}


def prepare(models: Models, /) -> Prepared:
    """Measure the task vectors over the whole model, by one pass over the weights."""
    return Coefficients(values=energy_shares(task_vector_energies(models)))


def check() -> None:
    """Demand nothing: there is no hyper-parameter."""


@prepared_by(prepare)
@checked_by(check)
def merge(pivot: Tensor, sources: Sequence[Tensor], site: Site, /) -> Tensor:
    """Add the sum of the task vectors, each times its coefficient, to the pivot.

    Nothing is trimmed, no sign is elected; the coefficients sum to 1, so nothing is divided.

    Args:
        pivot: Pre-trained float32 weights, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``, in any order.
        site: Carries the coefficients, see :func:`energy_shares`.

    Returns:
        float32 weights of the pivot's shape.
    """
    return add_weighted(pivot, sources, weights=site.prepared, scale=1.0)


def energy_shares(energies: Sequence[float]) -> tuple[float, ...]:
    """Divide the squared norms of the task vectors by their sum; zeros alone have equal shares.

    Args:
        energies: Over all tensors that are merged (the paper's over the whole model).
    """
    whole = math.fsum(energies)
    return tuple(e / whole if whole > 0 else 1 / len(energies) for e in energies)
