"""Find a source's frame: residual map, matched layers, matched units.

SeMe, https://arxiv.org/abs/2505.20144. Paper: the map from the semantic bases of the LM head,
the interpolation over layers. Ours: the embeddings and activations as further anchors, units
matched inside layers, and the refinement of the map by the weights of matched units.

Shape suffixes: P the pivot's residual width, K the source's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seme.alignment.activations import PivotTexts, activations_operator
from seme.alignment.diagnosis import stage
from seme.alignment.head_comparison import HeadComparison, embeddings_operator
from seme.alignment.layers import (
    LayerMatch,
    express_block,
    have_same_units,
    match_layers,
)
from seme.alignment.options import AlignmentOptions
from seme.alignment.residual_map import ResidualMap, residual_map
from seme.alignment.tokens import SharedTokens
from seme.alignment.transform import ATTENTION, MLP, READERS, read_block
from seme.architecture.folding import FoldedModel
from seme.architecture.parts import Part, Place

_ANCHOR_WEIGHT = 4.0
"""Weight of the anchors of each end, and of each point of the stream where activations are
compared, against one matrix of a layer in the refinement (SEME.md 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Map from a source to the pivot: residual stream, vocabulary, layers and their units."""

    turn: ResidualMap | None
    """T; None in the pivot's own frame."""
    tokens: SharedTokens | None
    """None: row for row."""
    layers: tuple[tuple[LayerMatch, ...], ...]
    """Source layers matched to each layer of the pivot."""


def find_frame(
    pivot: FoldedModel,
    source: FoldedModel,
    comparison: HeadComparison,
    options: AlignmentOptions,
    texts: PivotTexts,
) -> Frame:
    """Find the map from a source to the pivot.

    Args:
        pivot: The pivot, folded as the source is.
        source: The source.
        comparison: Of their LM heads.
        options: ``projection``, ``anchors``, ``match_units`` and ``refine`` are used.
        texts: The pivot's; sampled if activations are anchors, with the seed and within the memory
            that they carry.

    Raises:
        ValueError: If activations are anchors and a model cannot be run, or units cannot be
            matched.
    """
    units = _matches_units(pivot, source, comparison, options)
    if comparison.in_frame:
        with stage("units"):
            layers = match_layers(pivot, source, None, units=units)
        return Frame(turn=None, tokens=comparison.tokens, layers=layers)
    with stage("activations" if options.anchors == "activations" else "map"):
        operator_PK, n_anchors = _anchors_operator(pivot, source, comparison, options, texts)
    with stage("map"):
        turn = _map(operator_PK, n_anchors, pivot, comparison, options)
    with stage("units"):
        layers = match_layers(pivot, source, turn, units=units)
    for _ in range(options.refine if units and options.projection == "orthogonal" else 0):
        with stage("refinement"):
            refined_PK = _ANCHOR_WEIGHT * operator_PK / comparison.n_anchors
            refined_PK = refined_PK + units_operator(pivot, source, layers)
            turn = _map(refined_PK, 1, pivot, comparison, options)
        with stage("units"):
            layers = match_layers(pivot, source, turn, units=units)
    return Frame(turn=turn, tokens=comparison.tokens, layers=layers)


def units_operator(
    pivot: FoldedModel, source: FoldedModel, layers: tuple[tuple[LayerMatch, ...], ...]
) -> Tensor:
    """Sum the inner products of the weights of matched units over all layers (ours).

    Returns:
        Sum over readers of W_P^T W_k and over writers of W_P W_k^T, each over the norms of its
        two matrices, float64, (P, K): the orthogonal T nearest to it brings the source's
        matrices nearest to the pivot's.
    """
    terms = (
        match.share * term
        for layer, matches in enumerate(layers)
        for match in matches
        for attention in (True, False)
        for term in _block_terms(pivot, source, layer, match, attention=attention)
    )
    return sum(terms, start=torch.zeros((), dtype=torch.float64))


def _block_terms(
    pivot: FoldedModel, source: FoldedModel, layer: int, match: LayerMatch, *, attention: bool
) -> Iterator[Tensor]:
    pivot_parts = read_block(
        pivot.read, pivot.canonical, ATTENTION if attention else MLP, layer
    )
    source_parts = express_block(source, None, match, attention=attention)
    for part in (Part.Q, Part.K, Part.V, Part.O, Part.GATE, Part.UP, Part.DOWN):
        if part in pivot_parts and part in source_parts:
            yield _term(pivot_parts[part], source_parts[part], reader=part in READERS)


def _term(pivot: Tensor, source: Tensor, *, reader: bool) -> Tensor:
    cross_PK = pivot.T @ source if reader else pivot @ source.T
    norms = torch.linalg.norm(pivot).double() * torch.linalg.norm(source).double()
    term_PK: Tensor = cross_PK.double() / norms.clamp(min=torch.finfo(torch.float64).tiny)
    return term_PK


def _anchors_operator(
    pivot: FoldedModel,
    source: FoldedModel,
    comparison: HeadComparison,
    options: AlignmentOptions,
    texts: PivotTexts,
) -> tuple[Tensor, int]:
    """Sum the operators of the anchors, (P, K), and count the unit rows in the sum.

    Each end and each point of the stream weighs as much as the head: as its number of rows.
    """
    operator_PK = comparison.operator_PK
    assert operator_PK is not None, "kept where the source is not in the frame"
    if options.anchors == "head":
        return operator_PK, comparison.n_anchors
    place = Place(Part.EMBEDDING)
    ends_PK = operator_PK + embeddings_operator(
        pivot.read(place), source.read(place), comparison.tokens
    )
    if options.anchors == "both":
        return ends_PK, 2 * comparison.n_anchors
    states_PK, n_points = activations_operator(texts, source.canonical, comparison.tokens)
    return ends_PK + comparison.n_anchors * states_PK, (2 + n_points) * comparison.n_anchors


def _map(
    operator_PK: Tensor,
    n_anchors: int,
    pivot: FoldedModel,
    comparison: HeadComparison,
    options: AlignmentOptions,
) -> ResidualMap:
    return residual_map(
        operator_PK,
        projection=options.projection,
        centred=pivot.canonical.family.norm == "layer",
        n_anchors=n_anchors,
        pivot_PP=comparison.pivot_PP,
    )


def _matches_units(
    pivot: FoldedModel,
    source: FoldedModel,
    comparison: HeadComparison,
    options: AlignmentOptions,
) -> bool:
    if options.match_units != "auto":
        return options.match_units == "always"
    return not comparison.in_frame or not have_same_units(pivot.canonical, source.canonical)


def describe_source(comparison: HeadComparison, frame: Frame | None) -> dict[str, Any]:
    """Return the diagnostics of one source, JSON-ready.

    Args:
        comparison: Comparison of its LM head with the pivot's.
        frame: Its frame; None if it is merged as stored.
    """
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
        "layers": [] if frame is None else [_describe_layer(layer) for layer in frame.layers],
    }


def _describe_layer(matches: Sequence[LayerMatch]) -> dict[str, Any]:
    """Return the source layers matched to a layer, and the similarity of their units."""
    described: dict[str, Any] = {
        "source_layers": [match.layer for match in matches],
        "shares": [match.share for match in matches],
    }
    for kind, units in (
        ("heads", [match.heads for match in matches]),
        ("neurons", [match.neurons for match in matches]),
    ):
        means = [float(unit.similarity.mean()) for unit in units if unit is not None]
        if means:
            described[f"{kind}_similarity"] = sum(means) / len(means)
    heads = [match.heads for match in matches if match.heads is not None]
    if heads:
        described["rotary_exact"] = all(match.exact for match in heads)
    return described
