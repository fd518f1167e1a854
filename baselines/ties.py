"""TIES-Merging: trim, elect sign, disjoint mean.

Yadav et al., 2023, https://arxiv.org/abs/2306.01708, Algorithm 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from seme.checks import check_choice, check_finite, check_share
from seme.elementwise import add_signed, differences
from seme.interface import Prepared, Site, checked_by, prepared_by
from seme.ranking_scores import RankingScores
from seme.streaming import Models, OpenTensor
from seme.topk_mask import Selection, TopKMask, TrimTies, select_largest

Scope = Literal["model", "tensor"]
"""The trim ranks magnitudes over the whole task vector (paper), or in each tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTrim:
    """Survivors of each source's task vector, trimmed over the whole model."""

    selections: tuple[Selection, ...]
    """One per source."""
    columns: Mapping[str, RankingScores]
    """Task vectors by tensor name, not cached."""

    def at(self, tensor: OpenTensor) -> TopKMask:
        rules = [selection.rules[tensor.name] for selection in self.selections]
        return TopKMask(self.columns[tensor.name], rules)

    def diagnostics(self) -> Mapping[str, Any]:
        """Return threshold (None when nothing survives) and share kept of every source."""
        thresholds = [selection.threshold for selection in self.selections]
        return {
            "threshold": [None if math.isinf(t) else t for t in thresholds],
            "share_kept": [selection.share_kept for selection in self.selections],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorTrim:
    """Survivors of each source's task vector, trimmed within each tensor."""

    n_sources: int
    density: float
    trim_ties: TrimTies

    def at(self, tensor: OpenTensor) -> TopKMask:
        columns = RankingScores(tensor, differences, self.n_sources)
        selections = select_largest([columns], self.density, self.trim_ties)
        return TopKMask(columns, [selection.rules[tensor.name] for selection in selections])

    def diagnostics(self) -> Mapping[str, Any]:
        return {}


def prepare(
    models: Models, /, *, density: float, scope: Scope, trim_ties: TrimTies
) -> Prepared:
    """Find the threshold of each source's trim, by streaming.

    Args:
        models: Pre-trained model and sources.
        density: Share of each task vector that survives the trim, in (0, 1]; the paper's k is
            ``100 * density``.
        scope: ``model`` trims over the whole task vector (paper and authors' code),
            ``tensor`` within each tensor (mergekit).
        trim_ties: ``exact`` keeps exactly ``round(density * n)`` elements, never a zero, ties
            going to the first; ``keep_all`` keeps every element that is not below the
            threshold, as the authors' code does: far more than ``density`` of a bfloat16
            model, whose task vectors hold few distinct values.
    """
    n_sources = len(models.sources)
    if scope == "tensor":
        return TensorTrim(n_sources=n_sources, density=density, trim_ties=trim_ties)
    tensors = [models.open(name, kept=False) for name in models.merged_names]
    columns = [RankingScores(tensor, differences, n_sources, cache=False) for tensor in tensors]
    return ModelTrim(
        selections=select_largest(columns, density, trim_ties),
        columns={scores.name: scores for scores in columns},
    )


def check(*, density: float, lam: float, scope: Scope, trim_ties: TrimTies) -> None:
    """Demand a share, a finite number, and known readings of the trim."""
    check_share("density", density)
    check_finite("lam", lam)
    check_choice("scope", scope, get_args(Scope))
    check_choice("trim_ties", trim_ties, get_args(TrimTies))


@prepared_by(prepare)
@checked_by(check)
def merge(pivot: Tensor, sources: Sequence[Tensor], site: Site, /, *, lam: float) -> Tensor:
    """Add the disjoint mean of the trimmed task vectors to the pivot.

    Args:
        pivot: Pre-trained float32 weights, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``. Their order does not
            matter.
        site: Carries the thresholds of the trim, see :func:`prepare`.
        lam: Scale of the merged task vector (the paper's lambda); 1 adds it unchanged.

    Returns:
        float32 weights of the pivot's shape.
    """
    trimmed = trim(pivot, sources, site)
    return add_disjoint_mean(pivot, sources, trimmed, lam=lam)


def trim(pivot: Tensor, sources: Sequence[Tensor], site: Site) -> Tensor:
    """Mask the elements of each task vector that survive; no rescaling for the others.

    Returns:
        Booleans, (n_sources, *shape).
    """
    survivors: TopKMask = site.prepared
    return survivors.at(pivot, sources, site.start)


def add_disjoint_mean(
    pivot: Tensor, sources: Sequence[Tensor], kept: Tensor, *, lam: float
) -> Tensor:
    """Elect a sign per element, and add ``lam`` times the mean of the values that carry it.

    One pass over the elements, with t over the kept values of the task vectors:
    ``elected = sign(sum t)``; ``mean = sum(t where sign(t) == elected) / their number``;
    ``merged = pivot + lam * mean``.

    The election is unweighted (mergekit weighs first); where the sum is zero nothing is added
    (PEFT and mergekit elect plus, the authors' code the commoner sign of the model). The mean
    divides by the number of values that carry the elected sign (FusionBench and MergeBench do
    not divide). Zeros neither elect nor count.
    """
    equal = [1.0] * len(sources)
    return add_signed(pivot, sources, weights=equal, scale=lam, divide=True, kept=kept).merged
