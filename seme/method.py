"""SeMe: semantic bases, alignment with the pivot's latent space, Select-Compute-Erase.

Gu, Aleti, Chen and Zhang, 2025, https://arxiv.org/abs/2505.20144. No public code exists.

Paper, in its order: semantic bases of each model from its LM head; a map that recomposes a
source's representations in the pivot's bases; layers interpolated; Select-Compute-Erase. Ours:
the orthogonal projection, the action of the map on weights, the folding of gains, anchors at
both ends, units matched inside layers, and the identity short-cut for a source that is already
in the pivot's frame.

The first three are the preparation (:mod:`seme.alignment`), the last is :mod:`seme.sce`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from seme.alignment.activations import PivotTexts
from seme.alignment.aligned_source import AlignedSource
from seme.alignment.diagnosis import collect_seconds
from seme.alignment.frames import Frame, describe_source, find_frame
from seme.alignment.head_comparison import (
    HeadComparison,
    PivotHead,
    compare_heads,
    comparing_bytes,
)
from seme.alignment.options import AlignmentOptions
from seme.architecture.folding import FOLDABLE, FoldedModel, FoldedWeights
from seme.architecture.model import CanonicalModel
from seme.architecture.parts import Part
from seme.budget import demand, rewritten_bytes
from seme.compatibility import check_comparable, differences
from seme.interface import Site, checked_by, prepared_by
from seme.sce import Fusion, Select, SelectCompute, check_fusion, erase_and_add
from seme.streaming import Models, OpenTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceAlignment:
    """Alignment of one source with the pivot."""

    comparison: HeadComparison
    """Semantic bases and map, from the LM heads alone."""
    frame: Frame | None
    """None where the source is merged as stored."""
    seconds: dict[str, float]
    """Seconds of each stage; those of reading the rewritten source are added as it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Result of the preparation; implements :class:`seme.interface.Realigned`."""

    models: Models
    """Models to merge: as stored where all share a frame and a shape, else rewritten."""
    options: AlignmentOptions
    sources: tuple[SourceAlignment, ...]
    folded: bool
    """Gains of norms were folded, as some source is not in the pivot's frame."""
    select_compute: SelectCompute

    def at(self, tensor: OpenTensor) -> Fusion:
        return self.select_compute.at(tensor)

    def diagnostics(self) -> dict[str, Any]:
        return {
            "projection": self.options.projection,
            "gains_folded": self.folded,
            "sources": [
                {
                    **describe_source(source.comparison, source.frame),
                    "seconds": dict(source.seconds),
                }
                for source in self.sources
            ],
            **self.select_compute.diagnostics(),
        }


def prepare(
    models: Models,
    /,
    *,
    tau: float,
    alignment: Mapping[str, Any],
) -> Alignment:
    """Align every source with the pivot's latent space.

    Reads LM heads and final norms; layers only where a source must be rewritten, and where
    activations are anchors runs the pivot and the sources that must be. Where a source
    is mapped and the pivot's head is its embedding, the merged model gets a head of its own,
    which is exact (ours): one matrix could not hold the final norm's gain on one side alone.

    Args:
        models: Pivot and sources, of any width, depth, vocabulary and supported architecture.
        tau: Share of elements selected, in (0, 1] (paper).
        alignment: Entries of :class:`seme.alignment.options.AlignmentOptions`.

    Raises:
        ValueError: If an option is out of range, or a source cannot be brought into the pivot's
            frame: too few tokens in common, an architecture that is not supported or of another
            kind, norms that a rotation would change, or too little memory.
    """
    options = AlignmentOptions.from_mapping(alignment)
    mapped = Alignment(
        models=models,
        options=options,
        sources=map_by_semantic_bases(models, options),
        folded=False,
        select_compute=SelectCompute(len(models.sources), tau=tau),
    )
    if options.match_units != "always" and _all_mergeable_as_stored(mapped):
        return mapped
    return align(mapped)


def check(
    *,
    tau: float,
    lam: float,
    renormalize: bool,
    select: Select,
    alignment: Mapping[str, Any],
) -> None:
    """Check the ranges of the hyper-parameters; see :func:`prepare` and :func:`merge`.

    Raises:
        ValueError: If one is out of range, or an option of ``alignment`` unknown or missing.
    """
    check_fusion(tau=tau, lam=lam, renormalize=renormalize, select=select)
    AlignmentOptions.from_mapping(alignment)


@prepared_by(prepare, any_shape=True)
@checked_by(check)
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
    """Merge the aligned sources into the pivot by Select-Compute-Erase.

    Args:
        pivot: Weights the sources are merged into. Never written to.
        sources: Weights of the pivot's shape, in its frame.
        site: Carries the selected elements of the tensor, and the sources' coefficients.
        lam: Scale of the merged task vector (paper: 1).
        renormalize: Divide by the surviving weights per element (FuseChat's code; paper: no).
        select: ``deltas`` (paper) or ``coefficients`` (FuseChat's code).

    Returns:
        Merged weights of the pivot's shape. When any source was mapped, the gains of all norms
        that something reads are folded into the readers and come out as ones.
    """
    return erase_and_add(pivot, sources, site, lam=lam, renormalize=renormalize, select=select)


def map_by_semantic_bases(
    models: Models, options: AlignmentOptions
) -> tuple[SourceAlignment, ...]:
    """Solve for the semantic bases of all models and for the map of every source."""
    demand(
        comparing_bytes(models.pivot, len(models.sources)),
        models.memory_budget,
        "comparing the sources' heads with the pivot's",
    )
    pivot_head = PivotHead(models.pivot, models.device)
    mapped = []
    for i, source in enumerate(models.sources):
        seconds: dict[str, float] = {}
        with collect_seconds(seconds):
            comparison = compare_heads(pivot_head, source, f"source {i}", options)
        mapped.append(SourceAlignment(comparison=comparison, frame=None, seconds=seconds))
    return tuple(mapped)


def align(alignment: Alignment) -> Alignment:
    """Rewrite all sources in the pivot's frame and shape, and the pivot with folded gains."""
    models = alignment.models
    sizes = {name: math.prod(models.pivot.shape(name)) for name in models.pivot.names}
    demand(
        rewritten_bytes(sizes, len(models.sources)),
        models.memory_budget,
        "rewriting sources that are not in the pivot's frame",
    )
    pivot = CanonicalModel(models.pivot, device=models.device)
    sources = [CanonicalModel(source, device=models.device) for source in models.sources]
    _check_alignable(pivot, sources)
    turns = not all(source.comparison.in_frame for source in alignment.sources)
    untied = pivot.tied and (turns or not all(source.tied for source in sources))
    norms: frozenset[Part] = FOLDABLE if turns else frozenset()
    rewritten = FoldedWeights(FoldedModel(pivot, norms=norms), untied=untied)
    _check_all_merged(rewritten, models)
    texts = PivotTexts(pivot, alignment.options.sampling)
    aligned, weights = [], []
    for i, (model, source) in enumerate(zip(sources, alignment.sources, strict=True)):
        try:
            folded = FoldedModel(model, norms=norms)
            with collect_seconds(source.seconds):
                frame = find_frame(
                    rewritten.model, folded, source.comparison, alignment.options, texts
                )
        except ValueError as error:
            error.add_note(f"while aligning source {i} ({model.weights.path})")
            raise
        aligned.append(replace(source, frame=frame))
        weights.append(AlignedSource(rewritten, folded, frame, source.seconds))
    added = set(rewritten.names) - set(models.pivot.names)
    return replace(
        alignment,
        models=replace(
            models,
            pivot=rewritten,
            sources=tuple(weights),
            merged_names=tuple(sorted({*models.merged_names, *added})),
        ),
        sources=tuple(aligned),
        folded=turns,
    )


def _all_mergeable_as_stored(alignment: Alignment) -> bool:
    """Return True if every source is in the pivot's frame and has its tensors."""
    models = alignment.models
    return all(
        source.comparison.in_frame
        and source.comparison.tokens is None
        and not differences(models.pivot, weights)
        for source, weights in zip(alignment.sources, models.sources, strict=True)
    )


def _check_alignable(pivot: CanonicalModel, sources: Sequence[CanonicalModel]) -> None:
    for model in (pivot, *sources):
        if model.family.same_frame_only:
            raise ValueError(
                "a source must be rewritten (it is not in the pivot's frame, not laid out like "
                "the pivot, or alignment.match_units is always), which "
                f"{model.family.model_type} models do not allow: "
                f"{model.family.same_frame_only}"
            )
    for source in sources:
        check_comparable(pivot, source)


def _check_all_merged(pivot: FoldedWeights, models: Models) -> None:
    """Refuse to leave out a tensor that folding changes: the merged model would be neither."""
    left_out = [
        name
        for name in models.pivot.names
        if name not in models.merged_names
        and any(pivot.model.changes(place) for place in pivot.places_of(name))
    ]
    if left_out:
        raise ValueError(
            "mapping a source folds the gain of every norm into the tensors that read it, so "
            f"all norms, readers and the head must be merged, but {left_out[:3]} are left out; "
            "drop the include or exclude pattern, or raise alignment.identity_tolerance if "
            "these are fine-tunes of one base"
        )
