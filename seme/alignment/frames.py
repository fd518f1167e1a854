"""Find where a source stands relative to the pivot: residual map, layers, units (SEME.md 2-4).

SeMe, https://arxiv.org/abs/2505.20144. Paper: the map from the output head's semantic bases, the
interpolation over layers. Ours: the embeddings as second anchors, units matched inside layers,
and the refinement of the map by what matched units read and write.

Shape suffixes: P the pivot's residual width, K the source's.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from seme.alignment.aligned_source import Frame, LayerMatch, express_block
from seme.alignment.head_comparison import HeadComparison, Options, embeddings_operator
from seme.alignment.layers import have_same_units, match_layers
from seme.alignment.residual_map import ResidualMap, residual_map
from seme.alignment.stopwatch import Stopwatch
from seme.alignment.tokens import SharedTokens
from seme.alignment.transform import ATTENTION, MLP, READERS, read_block
from seme.architecture.folding import FoldedModel
from seme.architecture.parts import Part, Place

_ANCHOR_WEIGHT = 4.0
"""Weight of each end's anchors against one matrix of a layer in the refinement (SEME.md 3)."""


def find_frame(
    pivot: FoldedModel,
    source: FoldedModel,
    comparison: HeadComparison,
    options: Options,
    watch: Stopwatch,
) -> Frame:
    """Find all that takes a source to the pivot.

    Args:
        pivot: The pivot, folded as the source is.
        source: The source.
        comparison: What their heads say.
        options: Their ``projection``, ``anchors``, ``match_units`` and ``refine`` are used.
        watch: Takes the seconds of ``map``, ``units`` and ``refinement``.
    """
    units = _wants_units(pivot, source, comparison, options)
    if comparison.in_frame:
        layers = watch.time("units", lambda: match_layers(pivot, source, None, units=units))
        return Frame(turn=None, tokens=comparison.tokens, layers=layers)
    operator_PK, n_anchors = comparison.operator_PK, comparison.n_anchors
    assert operator_PK is not None, "kept where the source is not in the frame"
    if options.anchors == "both":
        operator_PK = operator_PK + watch.time(
            "map", lambda: _embeddings(pivot, source, comparison.tokens)
        )
        n_anchors *= 2
    turn = watch.time(
        "map", lambda: _map_of(operator_PK, n_anchors, pivot, comparison, options)
    )
    layers = watch.time("units", lambda: match_layers(pivot, source, turn, units=units))
    for _ in range(options.refine if units and options.projection == "orthogonal" else 0):
        turn = watch.time(
            "refinement",
            lambda: _map_of(
                _ANCHOR_WEIGHT * operator_PK / comparison.n_anchors
                + units_operator(pivot, source, layers),  # noqa: B023  (called at once)
                1,
                pivot,
                comparison,
                options,
            ),
        )
        layers = watch.time("units", lambda: match_layers(pivot, source, turn, units=units))  # noqa: B023
    return Frame(turn=turn, tokens=comparison.tokens, layers=layers)


def units_operator(
    pivot: FoldedModel, source: FoldedModel, layers: tuple[tuple[LayerMatch, ...], ...]
) -> Tensor:
    """Sum what matched units of the two models read and write, over all layers (ours).

    Returns:
        Sum over readers of W_P^T W_k and over writers of W_P W_k^T, each over the norms of its
        two matrices, float64, (P, K): the orthogonal T nearest to it brings the source's
        matrices closest to the pivot's.
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
    parts = ATTENTION if attention else MLP
    ours = read_block(pivot.read, pivot.anatomy, parts, layer)
    theirs = express_block(source, None, match, attention=attention)
    for part in (Part.Q, Part.K, Part.V, Part.O, Part.GATE, Part.UP, Part.DOWN):
        if part in ours and part in theirs:
            yield _term(ours[part], theirs[part], reader=part in READERS)


def _term(ours: Tensor, theirs: Tensor, *, reader: bool) -> Tensor:
    cross_PK = ours.T @ theirs if reader else ours @ theirs.T
    norms = torch.linalg.norm(ours).double() * torch.linalg.norm(theirs).double()
    term_PK: Tensor = cross_PK.double() / norms.clamp(min=torch.finfo(torch.float64).tiny)
    return term_PK


def _map_of(
    operator_PK: Tensor,
    n_anchors: int,
    pivot: FoldedModel,
    comparison: HeadComparison,
    options: Options,
) -> ResidualMap:
    return residual_map(
        operator_PK,
        projection=options.projection,
        centred=pivot.anatomy.family.norm == "layer",
        n_anchors=n_anchors,
        pivot_PP=comparison.pivot_PP,
    )


def _embeddings(pivot: FoldedModel, source: FoldedModel, tokens: SharedTokens | None) -> Tensor:
    place = Place(Part.EMBEDDING)
    return embeddings_operator(pivot.read(place), source.read(place), tokens)


def _wants_units(
    pivot: FoldedModel, source: FoldedModel, comparison: HeadComparison, options: Options
) -> bool:
    if options.match_units != "auto":
        return options.match_units == "always"
    return not comparison.in_frame or not have_same_units(pivot.anatomy, source.anatomy)
