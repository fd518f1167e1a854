"""Match a source's layers to the pivot's: depth, then the units inside each pair (SEME.md 3, 4)."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from seme.alignment.aligned_source import LayerMatch
from seme.alignment.attention import HeadMatch, match_heads
from seme.alignment.circuits import pair_frequencies
from seme.alignment.mlp import NeuronMatch, match_neurons
from seme.alignment.residual_map import ResidualMap
from seme.alignment.transform import (
    ATTENTION,
    MLP,
    Parts,
    heads_of,
    neurons_of,
    read_block,
    turn_block,
)
from seme.architecture.config_json import activation
from seme.architecture.folding import FoldedModel
from seme.architecture.model import Anatomy
from seme.architecture.parts import Part, Place


def layer_shares(layer: int, *, n_pivot: int, n_source: int) -> tuple[tuple[int, float], ...]:
    """Find the layers of a source between which a layer of the pivot lies (paper).

    Args:
        layer: Layer of the pivot, from 0.
        n_pivot: Number of layers of the pivot.
        n_source: Number of layers of the source.

    Returns:
        (source layer, share) pairs, shares positive and summing to 1: two neighbouring layers,
        or one where the pivot's layer falls on it. The first and the last layers of both models
        stand on one another; a pivot of one layer takes the source's first (ours).

    Raises:
        ValueError: If the layer is not one of the pivot's, or a model has no layer.
    """
    if n_pivot < 1 or n_source < 1 or not 0 <= layer < n_pivot:
        raise ValueError(
            f"layer must be one of the pivot's {n_pivot} and the source must have layers, got "
            f"layer {layer} and {n_source} layers of the source"
        )
    position = layer * (n_source - 1) / max(n_pivot - 1, 1)
    below = math.floor(position)
    share = position - below
    if share == 0:
        return ((below, 1.0),)
    return ((below, 1 - share), (below + 1, share))


def heads_in_order(pivot: Anatomy, source: Anatomy, layer: int, theirs: int) -> HeadMatch:
    """Put key/value group on group and, inside, query head on query head.

    Args:
        pivot: The pivot.
        source: The source.
        layer: Layer of the pivot.
        theirs: Layer of the source.
    """
    ours, other = pivot.dimensions, source.dimensions
    groups, heads = torch.arange(ours.n_kv_heads), torch.arange(ours.n_heads)
    ratio, other_ratio = ours.n_heads // ours.n_kv_heads, other.n_heads // other.n_kv_heads
    group, place = heads // ratio, heads % ratio
    there = (group < other.n_kv_heads) & (place < other_ratio)
    group_index = torch.where(groups < other.n_kv_heads, groups, -1)
    pairs = pair_frequencies(ours.rotary_of(layer), other.rotary_of(theirs))
    present = (group_index >= 0).float()[:, None, None]
    inside = torch.zeros(ours.head_dim, other.head_dim)
    inside[pairs.planes, pairs.source_planes] = 1.0
    free = slice(2 * len(pairs.index), None), slice(2 * pairs.n_source, None)
    inside[free] = torch.eye(*inside[free].shape)
    return HeadMatch(
        group_index=group_index,
        head_index=torch.where(there, group * other_ratio + place, -1),
        qk=present * inside,
        vo=present * torch.eye(ours.head_dim, other.head_dim),
        similarity=torch.zeros(ours.n_kv_heads),
        exact=pairs.exact,
        q_scale=other.attention_scale / ours.attention_scale,
        frequencies=ours.rotary_of(layer),
        attention_scale=ours.attention_scale,
    )


def neurons_in_order(pivot: Anatomy, source: Anatomy) -> NeuronMatch:
    """Put neuron on neuron."""
    places = torch.arange(pivot.dimensions.n_neurons)
    return NeuronMatch(
        index=torch.where(places < source.dimensions.n_neurons, places, -1),
        sign=torch.ones(len(places)),
        similarity=torch.zeros(len(places)),
    )


_MOST_AT_ONCE = 8
"""Layers matched side by side: each takes some hundred megabytes at real sizes."""
_INNER_BIASES = (Part.Q_BIAS, Part.K_BIAS, Part.V_BIAS, Part.GATE_BIAS, Part.UP_BIAS)
_OTHER_BIASES = (Part.O_BIAS, Part.DOWN_BIAS)


def check_comparable(pivot: Anatomy, source: Anatomy) -> None:
    """Refuse a source that computes something which the pivot's architecture cannot.

    Raises:
        ValueError: If the two differ in the kind of norm or where norms stand, in the MLP's
            gate or activation, in the norms of queries and keys or the size of heads under them,
            or in how positions enter; or if the source has a bias that the pivot has no place for.
    """
    for what, ours, theirs in (
        ("norm", pivot.family.norm, source.family.norm),
        ("norms per block", _norms(pivot), _norms(source)),
        ("MLP", _mlp(pivot), _mlp(source)),
        ("activation", activation(pivot.weights.config), activation(source.weights.config)),
        ("norm of queries and keys", pivot.family.qk_norm, source.family.qk_norm),
        ("positions", pivot.family.positions, source.family.positions),
        ("blocks", _blocks(pivot), _blocks(source)),
    ):
        if ours != theirs:
            raise ValueError(
                f"{what}: the pivot ({pivot.family.model_type}) has {ours}, the source "
                f"({source.family.model_type}) has {theirs}; what the source computes cannot be "
                "written in the pivot's architecture: choose models of one kind"
            )
    _check_normed_heads(pivot, source)
    extra = [
        part
        for part in (*_INNER_BIASES, *_OTHER_BIASES)
        if Place(part, 0) in source.places and Place(part, 0) not in pivot.places
    ]
    if extra:
        raise ValueError(
            f"the source has {', '.join(extra)}, which the pivot ({pivot.family.model_type}) has "
            "no place for: use the source as the pivot"
        )


def _check_normed_heads(pivot: Anatomy, source: Anatomy) -> None:
    ours, theirs = pivot.dimensions.head_dim, source.dimensions.head_dim
    if pivot.family.qk_norm != "none" and ours != theirs:
        raise ValueError(
            f"queries and keys are normed: heads of {ours} dimensions were expected, as in the "
            f"pivot, the source has heads of {theirs}, and no basis of one is one of the other; "
            "choose models with heads of one size"
        )


def match_layers(
    pivot: FoldedModel, source: FoldedModel, turn: ResidualMap | None, *, units: bool
) -> tuple[tuple[LayerMatch, ...], ...]:
    """Find what of the source stands at each layer of the pivot.

    Args:
        pivot: The pivot, folded.
        source: The source, folded.
        turn: The source's residual map.
        units: Whether to match units; without it they stand in their own order.
    """
    find = _matched if units else _in_order
    n_pivot, n_source = pivot.anatomy.dimensions.n_layers, source.anatomy.dimensions.n_layers
    shares = [
        layer_shares(layer, n_pivot=n_pivot, n_source=n_source) for layer in range(n_pivot)
    ]

    def match(layer: int) -> tuple[LayerMatch, ...]:
        return tuple(
            find(pivot, source, turn, layer, theirs, share) for theirs, share in shares[layer]
        )

    with _a_core_each() as pool:
        return tuple(pool.map(match, range(n_pivot)))


@contextmanager
def _a_core_each() -> Iterator[ThreadPoolExecutor]:
    """A pool of as many threads as torch uses, on which torch uses one each.

    Assignments run on one core whatever torch does, so layers side by side keep all busy.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(n_threads, _MOST_AT_ONCE)) as pool:
            yield pool
    finally:
        torch.set_num_threads(n_threads)


def _matched(
    pivot: FoldedModel,
    source: FoldedModel,
    turn: ResidualMap | None,
    layer: int,
    theirs: int,
    share: float,
) -> LayerMatch:
    return LayerMatch(
        layer=theirs,
        share=share,
        heads=_match_heads(pivot, source, turn, layer, theirs),
        neurons=_match_neurons(pivot, source, turn, layer, theirs),
    )


def _in_order(
    pivot: FoldedModel,
    source: FoldedModel,
    _turn: ResidualMap | None,
    layer: int,
    theirs: int,
    share: float,
) -> LayerMatch:
    same = have_same_units(pivot.anatomy, source.anatomy)
    return LayerMatch(
        layer=theirs,
        share=share,
        heads=None if same else heads_in_order(pivot.anatomy, source.anatomy, layer, theirs),
        neurons=None if same else neurons_in_order(pivot.anatomy, source.anatomy),
    )


def _match_heads(
    pivot: FoldedModel, source: FoldedModel, turn: ResidualMap | None, layer: int, theirs: int
) -> HeadMatch:
    return match_heads(
        heads_of(read_block(pivot.read, pivot.anatomy, ATTENTION, layer), pivot.anatomy, layer),
        heads_of(_turned(source, turn, ATTENTION, theirs), source.anatomy, theirs),
        rotate_inner=pivot.anatomy.family.qk_norm == "none",
    )


def _match_neurons(
    pivot: FoldedModel, source: FoldedModel, turn: ResidualMap | None, layer: int, theirs: int
) -> NeuronMatch:
    return match_neurons(
        neurons_of(read_block(pivot.read, pivot.anatomy, MLP, layer)),
        neurons_of(_turned(source, turn, MLP, theirs)),
    )


def _turned(
    source: FoldedModel, turn: ResidualMap | None, parts: tuple[Part, ...], layer: int
) -> Parts:
    read = read_block(source.read, source.anatomy, parts, layer)
    return turn_block(read, turn)


def have_same_units(pivot: Anatomy, source: Anatomy) -> bool:
    """Whether two models have as many heads, as wide, and as many neurons."""
    return _units(pivot) == _units(source)


def _units(model: Anatomy) -> dict[str, int]:
    sizes = model.dimensions
    return {
        "heads": sizes.n_heads,
        "key/value heads": sizes.n_kv_heads,
        "dimensions of a head": sizes.head_dim,
        "neurons": sizes.n_neurons,
    }


def _norms(model: Anatomy) -> str:
    """Which norms a block has."""
    kinds = (
        Part.ATTENTION_NORM,
        Part.ATTENTION_POST_NORM,
        Part.MLP_NORM,
        Part.MLP_POST_NORM,
    )
    return ", ".join(kind for kind in kinds if Place(kind, 0) in model.places)


def _mlp(model: Anatomy) -> str:
    return "a gate" if model.family.gated else "no gate"


def _blocks(model: Anatomy) -> str:
    return "attention and MLP side by side" if model.family.parallel else "one after the other"
