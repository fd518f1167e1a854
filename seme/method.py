"""SeMe: semantic bases, alignment with the pivot's latent space, Select-Compute-Erase.

Gu, Aleti, Chen and Zhang, 2025, https://arxiv.org/abs/2505.20144. No public code exists.

Paper: bases from the output head; a source's representations recomposed in the pivot's bases;
layers interpolated; Select-Compute-Erase. Ours: the orthogonal projection, the way the map acts
on weights, the folding of gains, anchors at both ends, units matched inside layers, and the
identity short-cut that leaves a source alone which is already in the pivot's frame.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from torch import Tensor

from seme.alignment.aligned_source import AlignedSource
from seme.alignment.architectures import check_comparable
from seme.alignment.frames import Frame, find_frame
from seme.alignment.head_comparison import (
    HeadComparison,
    PivotHead,
    compare_heads,
    comparing_bytes,
)
from seme.alignment.layers import LayerMatch
from seme.alignment.options import AlignmentOptions, Anchors, MatchUnits, Projection
from seme.alignment.stopwatch import collect_seconds
from seme.architecture.folding import FOLDABLE, FoldedModel, FoldedWeights
from seme.architecture.model import Anatomy
from seme.architecture.parts import Part
from seme.budget import demand, rewritten_bytes
from seme.checkpoint.protocol import Weights
from seme.checks import check_between, check_choice, check_finite, check_switch, check_whole
from seme.compatibility import differences
from seme.interface import Site, checked_by, prepared_by
from seme.sce import Fusion, Select, SelectCompute, check_fusion, erase_and_add
from seme.streaming import Models, OpenTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The preparation's outcome; implements :class:`seme.interface.Realigned`."""

    models: Models
    """What is fused: as on disk where all share a frame and a shape, else in the pivot's."""
    options: AlignmentOptions
    comparisons: tuple[HeadComparison, ...]
    frames: tuple[Frame, ...]
    """None of them where the models are fused as they are on disk."""
    folded: bool
    seconds: tuple[dict[str, float], ...]
    surveys: SelectCompute

    def at(self, tensor: OpenTensor) -> Fusion:
        return self.surveys.at(tensor)

    def diagnostics(self) -> dict[str, Any]:
        frames = self.frames or (None,) * len(self.comparisons)
        return {
            "projection": self.options.projection,
            "gains_folded": self.folded,
            "sources": [
                {**_described(comparison, frame), "seconds": _seconds(seconds, source)}
                for comparison, frame, seconds, source in zip(
                    self.comparisons, frames, self.seconds, self.models.sources, strict=True
                )
            ],
            **self.surveys.diagnostics(),
        }


def prepare(
    models: Models,
    /,
    *,
    tau: float,
    projection: Projection,
    anchors: Anchors,
    match_units: MatchUnits,
    refine: int,
    identity_tolerance: float,
    min_overlap: float,
    untie_embeddings: bool,
) -> Alignment:
    """Find every source's place in the pivot's latent space.

    Reads the heads and the final norms; the layers only where a source has to be rewritten.

    Args:
        models: Pivot and sources, of any width, depth, vocabulary and supported architecture.
        tau: Share of elements selected, in (0, 1] (paper).
        projection: ``orthogonal`` (ours), ``least_squares`` (ours) or ``cosine`` (paper).
        anchors: What fixes the map: the output ``head`` (paper) or ``both`` ends (ours).
        match_units: Match heads and neurons (ours): ``auto`` where a source is not in the
            pivot's frame, ``always`` or ``never``.
        refine: Rounds in which the map is found again from matched units, at least 0 (ours);
            with the orthogonal projection only.
        identity_tolerance: A source of the pivot's shape whose ||T - I||_F / sqrt(d) is below
            it is merged as it is (ours); 0 turns every source. Not used by ``cosine``, which is
            the paper's operator taken literally.
        min_overlap: Least share of the pivot's vocabulary that a source must have, in [0, 1].
        untie_embeddings: Where a source has to be turned and the pivot's head is its embedding:
            give the merged model a head of its own, which is exact (ours). Without it the
            embedding decides, and the final norm's gain is approximated by a diagonal.

    Raises:
        ValueError: If a source cannot be brought into the
            pivot's frame: too few tokens in common, an architecture that is not supported or of
            another kind, norms that a rotation would change, or too little memory.
    """
    options = AlignmentOptions(
        projection=projection,
        anchors=anchors,
        match_units=match_units,
        refine=refine,
        identity_tolerance=identity_tolerance,
        min_overlap=min_overlap,
    )
    surveys = SelectCompute(len(models.sources), tau=tau)
    demand(
        comparing_bytes(models.pivot, len(models.sources)),
        models.memory_budget,
        "comparing the sources' heads with the pivot's",
    )
    pivot_head = PivotHead(models.pivot, models.device)
    comparisons, all_seconds = [], []
    for i, source in enumerate(models.sources):
        seconds: dict[str, float] = {}
        with collect_seconds(seconds):
            comparisons.append(compare_heads(pivot_head, source, f"source {i}", options))
        all_seconds.append(seconds)
    alignment = Alignment(
        models=models,
        options=options,
        comparisons=tuple(comparisons),
        frames=(),
        folded=False,
        seconds=tuple(all_seconds),
        surveys=surveys,
    )
    on_disk = all(
        _is_as_on_disk(models.pivot, source, comparison)
        for source, comparison in zip(models.sources, comparisons, strict=True)
    )
    if on_disk and match_units != "always":
        return alignment
    return _realigned(alignment, untie_embeddings=untie_embeddings)


def check(
    *,
    tau: float,
    lam: float,
    renormalize: bool,
    select: Select,
    projection: Projection,
    anchors: Anchors,
    match_units: MatchUnits,
    refine: int,
    identity_tolerance: float,
    min_overlap: float,
    untie_embeddings: bool,
) -> None:
    """Check the ranges of the hyper-parameters; see :func:`prepare` and :func:`merge`.

    Raises:
        ValueError: If one is out of range.
    """
    check_fusion(tau=tau, lam=lam, renormalize=renormalize, select=select)
    check_choice("projection", projection, get_args(Projection))
    check_choice("anchors", anchors, get_args(Anchors))
    check_choice("match_units", match_units, get_args(MatchUnits))
    check_whole("refine", refine, least=0)
    check_finite("identity_tolerance", identity_tolerance, least=0)
    check_between("min_overlap", min_overlap, 0, 1)
    check_switch("untie_embeddings", untie_embeddings)


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
    """Fuse the sources, which the preparation brought into the pivot's frame, into the pivot.

    Args:
        pivot: Weights the sources are merged into. Never written to.
        sources: Weights of the pivot's shape, in its frame.
        site: Carries what was selected of the tensor, and the sources' coefficients.
        lam: Scale of the merged task vector (paper: 1).
        renormalize: Divide by the surviving weights per element (FuseChat's code; paper: no).
        select: ``deltas`` (paper) or ``coefficients`` (FuseChat's code).

    Returns:
        Merged weights of the pivot's shape. When any source was turned, all gains of norms that
        something reads behind are folded into the readers and come out as ones.
    """
    return erase_and_add(pivot, sources, site, lam=lam, renormalize=renormalize, select=select)


def _is_as_on_disk(pivot: Weights, source: Weights, comparison: HeadComparison) -> bool:
    """Whether a source is fused as it is: in the pivot's frame, laid out like the pivot."""
    return comparison.in_frame and comparison.tokens is None and not differences(pivot, source)


def _realigned(alignment: Alignment, *, untie_embeddings: bool) -> Alignment:
    """Rewrite pivot and sources so that all stand in the pivot's frame and shape."""
    models, comparisons = alignment.models, alignment.comparisons
    sizes = {name: math.prod(models.pivot.shape(name)) for name in models.pivot.names}
    demand(
        rewritten_bytes(sizes, len(models.sources)),
        models.memory_budget,
        "rewriting sources that are not in the pivot's frame",
    )
    pivot = Anatomy(models.pivot, device=models.device)
    sources = [Anatomy(source, device=models.device) for source in models.sources]
    turns = not all(comparison.in_frame for comparison in comparisons)
    for anatomy in (pivot, *sources):
        if anatomy.family.same_frame_only:
            raise ValueError(
                "a source must be rewritten (it is not in the pivot's frame, not laid out like "
                "the pivot, or match_units is always), which "
                f"{anatomy.family.model_type} models do not allow: "
                f"{anatomy.family.same_frame_only}"
            )
    for source in sources:
        check_comparable(pivot, source)
    keeps_tie = pivot.tied and not untie_embeddings
    untied = not keeps_tie and pivot.tied and (turns or not all(s.tied for s in sources))
    norms = (FOLDABLE - {Part.FINAL_NORM} if keeps_tie else FOLDABLE) if turns else frozenset()
    folded = FoldedModel(pivot, norms=norms)
    rewritten = FoldedWeights(folded, untied=untied)
    _check_all_merged(rewritten, models)
    frames, aligned = [], []
    for i, (source, comparison, seconds) in enumerate(
        zip(sources, comparisons, alignment.seconds, strict=True)
    ):
        try:
            folded_source = FoldedModel(source, norms=norms)
            with collect_seconds(seconds):
                frame = find_frame(folded, folded_source, comparison, alignment.options)
        except ValueError as error:
            error.add_note(f"while aligning source {i} ({source.weights.path})")
            raise
        frames.append(frame)
        aligned.append(AlignedSource(rewritten, folded_source, frame))
    added = set(rewritten.names) - set(models.pivot.names)
    return replace(
        alignment,
        models=replace(
            models,
            pivot=rewritten,
            sources=tuple(aligned),
            merged_names=tuple(sorted({*models.merged_names, *added})),
        ),
        frames=tuple(frames),
        folded=turns,
    )


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
            "turning a source folds every norm's gain into the tensors behind it, so all norms, "
            f"readers and the head must be merged, but {left_out[:3]} are left out; drop the "
            "include or exclude pattern, or raise identity_tolerance if these are fine-tunes of "
            "one base"
        )


def _seconds(alignment: Mapping[str, float], source: Weights) -> dict[str, float]:
    """Seconds of each stage, those of reading the rewritten source included."""
    transformation = source.seconds if isinstance(source, AlignedSource) else {}
    return {**alignment, **transformation}


def _described(comparison: HeadComparison, frame: Frame | None) -> dict[str, Any]:
    """What was found of one source, JSON-ready."""
    turn = comparison.turn if frame is None or frame.turn is None else frame.turn
    return {
        "identity_shortcut": comparison.in_frame,
        "distance_from_identity": turn.distance,
        "head_similarity": comparison.turn.similarity,
        "overlap": 1.0 if comparison.tokens is None else comparison.tokens.overlap,
        "shared_tokens": comparison.n_shared,
        "compared_tokens": comparison.n_anchors,
        "condition": comparison.condition,
        "ridge": comparison.ridge,
        "layers": [] if frame is None else [_layer(matches) for matches in frame.layers],
    }


def _layer(matches: Sequence[LayerMatch]) -> dict[str, Any]:
    """Where a layer's source layers stand, and how alike their matched units are."""
    found: dict[str, Any] = {
        "source_layers": [match.layer for match in matches],
        "shares": [match.share for match in matches],
    }
    for kind, units in (
        ("heads", [match.heads for match in matches]),
        ("neurons", [match.neurons for match in matches]),
    ):
        alike = [float(unit.similarity.mean()) for unit in units if unit is not None]
        if alike:
            found[f"{kind}_similarity"] = sum(alike) / len(alike)
    heads = [match.heads for match in matches if match.heads is not None]
    if heads:
        found["rotary_exact"] = all(match.exact for match in heads)
    return found
