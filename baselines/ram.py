"""RAM and RAM+: average what several sources changed, add what one alone changed, a little larger.

Yuan et al., 2026, Behavior Knowledge Merge in Reinforced Agentic Models,
https://arxiv.org/abs/2601.13572. Task vectors of reinforcement learning are sparse: a mean
dilutes what only one of them holds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from seme.checks import check_choice, check_finite
from seme.elementwise import add_change, task_vectors
from seme.interface import Prepared, Site, checked_by, prepared_by
from seme.kernels import overlap
from seme.kernels.jit import use_numba
from seme.streaming import Block, Models, OpenTensor

Scope = Literal["model", "tensor"]
"""Shared and unique elements are counted over the whole model, or in each tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScales:
    """Scales of the sources' unique elements, the same in every tensor."""

    scales: tuple[float, ...]

    def at(self, _tensor: OpenTensor) -> tuple[float, ...]:
        return self.scales

    def diagnostics(self) -> Mapping[str, Any]:
        """Return the scales of the sources, in configuration order."""
        return {"scales": list(self.scales)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorScales:
    """Scales of the sources' unique elements, by one pass over each tensor."""

    r: float
    alpha: float
    epsilon: float

    def at(self, tensor: OpenTensor) -> tuple[float, ...]:
        counts = _count(tensor, self.epsilon, one_thread=False)
        return unique_scales(counts, r=self.r, alpha=self.alpha)

    def diagnostics(self) -> Mapping[str, Any]:
        return {}


def prepare(
    models: Models, /, *, r: float, alpha: float, epsilon: float, scope: Scope
) -> Prepared:
    """Count shared and unique elements, unless ``r`` is 0.

    Args:
        models: Pre-trained model and sources.
        r: Growth of a unique element per unit of overlap, at least 0; 0 is plain RAM, 0.1 RAM+.
        alpha: Largest overlap that counts, at least 0.
        epsilon: Magnitude up to which an element of a task vector counts as unchanged.
        scope: ``model`` counts over the whole model, ``tensor`` in each tensor (mergekit's
            ``ramplus_tl``).
    """
    if r == 0:
        return ModelScales(scales=(1.0,) * len(models.sources))
    if scope == "tensor":
        return TensorScales(r=r, alpha=alpha, epsilon=epsilon)
    tensors = [models.open(name, kept=False) for name in models.merged_names]
    per_tensor = models.map_tensors(
        [tensor.numel for tensor in tensors],
        lambda index: _count(tensors[index], epsilon, one_thread=False),
        lambda index: _count(tensors[index], epsilon, one_thread=True),
    )
    counts = _summed(per_tensor, len(models.sources))
    return ModelScales(scales=unique_scales(counts, r=r, alpha=alpha))


def check(*, r: float, alpha: float, epsilon: float, scope: Scope) -> None:
    """Demand numbers that are not negative, and a known scope."""
    check_finite("r", r, least=0)
    check_finite("alpha", alpha, least=0)
    check_finite("epsilon", epsilon, least=0)
    check_choice("scope", scope, get_args(Scope))


@prepared_by(prepare)
@checked_by(check)
def merge(pivot: Tensor, sources: Sequence[Tensor], site: Site, /, *, epsilon: float) -> Tensor:
    """Add shared elements' means and scaled unique elements to the pivot.

    Elementwise; no trim but that of ``epsilon``, no sign election.

    Args:
        pivot: Pre-trained float32 weights, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``, in any order.
        site: Carries one scale per source, see :func:`unique_scales`.
        epsilon: See :func:`prepare`; elements up to it add nothing.

    Returns:
        float32 weights of the pivot's shape.
    """
    if use_numba(pivot.device):
        return overlap.add(pivot, sources, epsilon, site.prepared)
    tv = torch.stack(task_vectors(pivot, sources))
    changed = tv.abs() > epsilon
    n_changed = changed.sum(dim=0)
    change = torch.zeros_like(tv[0])
    for values, flags, scale in zip(tv, changed, site.prepared, strict=True):
        part = torch.where(n_changed == 1, values * scale, values / n_changed.clamp(min=1))
        change += torch.where(flags, part, 0.0)
    return add_change(pivot, change)


def unique_scales(
    counts: Sequence[tuple[int, int]], *, r: float, alpha: float
) -> tuple[float, ...]:
    """Return ``1 + r min(shared / unique, alpha)`` for every source.

    Args:
        counts: Of every source's changed elements: those that others changed too, and those
            that it alone changed.
        r: See :func:`prepare`; likewise ``alpha``.
        alpha: Largest overlap that counts.
    """
    overlaps = [shared / unique if unique else math.inf for shared, unique in counts]
    return tuple(1 + r * min(overlap, alpha) for overlap in overlaps)


def _count(tensor: OpenTensor, epsilon: float, *, one_thread: bool) -> list[tuple[int, int]]:
    """Count the shared and the unique elements of every source in a tensor."""

    def count(block: Block) -> list[tuple[int, int]]:
        if use_numba(block.pivot.device):
            return overlap.count(block.pivot, block.sources, epsilon)
        tv = torch.stack(task_vectors(block.pivot, block.sources))
        changed = tv.abs() > epsilon
        alone = changed.sum(dim=0) == 1
        return [(int((row & ~alone).sum()), int((row & alone).sum())) for row in changed]

    return _summed(tensor.map(count, one_thread=one_thread), len(tensor.models.sources))


def _summed(counts: Sequence[Sequence[tuple[int, int]]], n: int) -> list[tuple[int, int]]:
    return [
        (sum(row[k][0] for row in counts), sum(row[k][1] for row in counts)) for k in range(n)
    ]
