"""TIES-Merging: trim, elect sign, disjoint mean.

Yadav et al., 2023, https://arxiv.org/abs/2306.01708, Algorithm 1.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from baselines.task_vector import disjoint_mean
from seme.blockwise import add_to_pivot
from seme.checks import check_choice, check_finite, check_share
from seme.selection import KeepRule, Selection, TrimTies, rule_for, select_over_stream
from seme.types import Models, Prepared, Site, prepared_by

Scope = Literal["model", "tensor"]
"""Over what the trim ranks magnitudes: the whole task vector (paper), or each tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trim:
    """What survives of each source's task vector when it is trimmed over the whole model."""

    selections: tuple[Selection, ...]
    """One per source; empty when every tensor is trimmed by itself."""

    def at(self, name: str) -> tuple[KeepRule, ...]:
        return tuple(selection.rules[name] for selection in self.selections)

    def diagnostics(self) -> Mapping[str, Any]:
        """Give threshold (None when nothing survives) and share kept of every source."""
        thresholds = [selection.threshold for selection in self.selections]
        return {
            "threshold": [None if math.isinf(t) else t for t in thresholds],
            "share_kept": [selection.share_kept for selection in self.selections],
        }


def prepare(
    models: Models, /, *, density: float, scope: Scope, trim_ties: TrimTies
) -> Prepared:
    """Find what the trim over the whole model keeps of each source, by streaming.

    Reads all models twice; reads nothing when every tensor is trimmed by itself.

    Args:
        models: Pre-trained model and sources.
        density: Share of each task vector that survives the trim, in (0, 1].
        scope: ``model`` or ``tensor``, see :func:`merge`.
        trim_ties: ``exact`` or ``keep_all``, see :func:`merge`.

    Raises:
        ValueError: If a parameter is out of range.
    """
    _check_trim(density=density, scope=scope, trim_ties=trim_ties)
    if scope == "tensor":
        return Trim(selections=())

    def task_vectors(names: Sequence[str]) -> Iterator[tuple[str, Iterator[Tensor]]]:
        for name, pivot, sources in replace(models, merged_names=tuple(names)).stream():
            yield name, map(pivot.sub, sources)  # magnitudes have no sign

    selections = select_over_stream(task_vectors, models.merged_names, density, trim_ties)
    return Trim(selections=selections)


@prepared_by(prepare)
def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    site: Site,
    /,
    *,
    density: float,
    lam: float,
    scope: Scope,
    trim_ties: TrimTies,
) -> Tensor:
    """Add the sign-consistent mean of the trimmed task vectors to the pivot.

    The sign is elected by the unweighted sum of the trimmed values (mergekit weighs them
    first); where that sum is zero nothing is added (PEFT and mergekit elect plus, the
    authors' code the commoner sign of the model). The mean divides by the number of values
    that carry the elected sign (FusionBench and MergeBench do not divide). Zeros neither
    elect nor count. No rescaling for the values trimmed.

    Args:
        pivot: Pre-trained float32 weights, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``. Their order does not
            matter.
        site: Carries the whole model's trim when ``scope`` is ``model``.
        density: Share of each task vector that survives the trim, in (0, 1]; the paper's k is
            ``100 * density``.
        lam: Scale of the merged task vector (the paper's lambda); 1 adds it unchanged.
        scope: ``model`` trims over the whole task vector (paper and authors' code),
            ``tensor`` within each tensor (mergekit).
        trim_ties: ``exact`` keeps exactly ``round(density * n)`` elements, never a zero, ties
            going to the first (ours); ``keep_all`` keeps every element that is not below the
            threshold, as the authors' code does: far more than ``density`` of a bfloat16
            model, whose task vectors hold few distinct values.

    Returns:
        float32 weights of the pivot's shape.

    Raises:
        ValueError: If a parameter is out of range.
    """
    _check_trim(density=density, scope=scope, trim_ties=trim_ties)
    check_finite("lam", lam)
    if scope == "model":
        assert site.prepared is not None, "scope=model needs what prepare() found"
        rules: tuple[KeepRule, ...] = site.prepared
    else:
        rules = tuple(rule_for(source - pivot, density, trim_ties) for source in sources)
    return add_to_pivot(
        pivot, sources, lambda tv, place: lam * disjoint_mean(_trim(tv, rules, place))
    )


def _trim(tv: Tensor, rules: Sequence[KeepRule], place: slice) -> Tensor:
    """Zero, in place, what the rules do not keep.

    Rules rank float32 magnitudes. Rounding a float64 difference to float32 gives what a
    float32 subtraction gives, so both sides of the pass see the same bits.
    """
    for row, rule in zip(tv, rules, strict=True):
        row.mul_(rule.keeps(row.to(torch.float32), place.start))
    return tv


def _check_trim(*, density: float, scope: str, trim_ties: str) -> None:
    check_share("density", density)
    check_choice("scope", scope, get_args(Scope))
    check_choice("trim_ties", trim_ties, get_args(TrimTies))
