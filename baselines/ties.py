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
from seme.interface import Prepared, Site, prepared_by
from seme.selection import Selection, TopKMask, TrimTies, select_largest
from seme.streaming import Models, OpenTensor
from seme.topk import RankingScores

Scope = Literal["model", "tensor"]
"""Over what the trim ranks magnitudes: the whole task vector (paper), or each tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTrim:
    """What survives of each source's task vector when it is trimmed over the whole model."""

    selections: tuple[Selection, ...]
    """One per source."""
    scores: Mapping[str, RankingScores]
    """Of every tensor, none of them held."""

    def at(self, tensor: OpenTensor) -> TopKMask:
        rules = [selection.rules[tensor.name] for selection in self.selections]
        return TopKMask(self.scores[tensor.name], rules)

    def diagnostics(self) -> Mapping[str, Any]:
        """Give threshold (None when nothing survives) and share kept of every source."""
        thresholds = [selection.threshold for selection in self.selections]
        return {
            "threshold": [None if math.isinf(t) else t for t in thresholds],
            "share_kept": [selection.share_kept for selection in self.selections],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorTrim:
    """What survives of each source's task vector when every tensor is trimmed by itself."""

    n_sources: int
    density: float
    trim_ties: TrimTies

    def at(self, tensor: OpenTensor) -> TopKMask:
        scores = RankingScores(tensor, differences, self.n_sources)
        selections = select_largest([scores], self.density, self.trim_ties)
        return TopKMask(scores, [selection.rules[tensor.name] for selection in selections])

    def diagnostics(self) -> Mapping[str, Any]:
        return {}


def prepare(
    models: Models, /, *, density: float, scope: Scope, trim_ties: TrimTies
) -> Prepared:
    """Find what the trim keeps of each source, by streaming.

    Args:
        models: Pre-trained model and sources.
        density: Share of each task vector that survives the trim, in (0, 1].
        scope: ``model`` or ``tensor``, see :func:`merge`.
        trim_ties: ``exact`` or ``keep_all``, see :func:`merge`.

    Raises:
        ValueError: If a parameter is out of range.
    """
    check_share("density", density)
    check_choice("scope", scope, get_args(Scope))
    check_choice("trim_ties", trim_ties, get_args(TrimTies))
    n_sources = len(models.sources)
    if scope == "tensor":
        return TensorTrim(n_sources=n_sources, density=density, trim_ties=trim_ties)
    tensors = [models.open(name, kept=False) for name in models.merged_names]
    scores = [RankingScores(tensor, differences, n_sources, cache=False) for tensor in tensors]
    return ModelTrim(
        selections=select_largest(scores, density, trim_ties),
        scores={of_tensor.name: of_tensor for of_tensor in scores},
    )


@prepared_by(prepare)
def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    site: Site,
    /,
    *,
    density: float,  # noqa: ARG001  (these belong to the preparation)
    lam: float,
    scope: Scope,  # noqa: ARG001
    trim_ties: TrimTies,  # noqa: ARG001
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
        site: Carries what the trim keeps of each source.
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
        ValueError: If ``lam`` is not finite.
    """
    check_finite("lam", lam)
    trimmed: TopKMask = site.prepared
    kept = trimmed.at(pivot, sources, site.start)
    return add_signed(
        pivot, sources, weights=[1.0] * len(sources), scale=lam, divide=True, kept=kept
    ).merged
