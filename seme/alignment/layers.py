"""Match a source's layers to the pivot's: depth, then the units of each pair of layers.

SeMe, https://arxiv.org/abs/2505.20144. Paper: layers are interpolated linearly. Ours: heads and
neurons of a pair of layers are matched, or paired in their own order, first with first.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch

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
    place_heads,
    place_neurons,
    read_block,
    turn_block,
)
from seme.architecture.folding import FoldedModel
from seme.architecture.model import CanonicalModel
from seme.architecture.parts import Part

_MOST_AT_ONCE = 8
"""Layers matched in parallel: each takes some hundred megabytes at real sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMatch:
    """A layer of the source matched to a layer of the pivot."""

    layer: int
    """Layer of the source."""
    share: float
    """Its weight in the interpolation at the pivot's layer, in (0, 1]."""
    heads: HeadMatch | None
    """None: head for head."""
    neurons: NeuronMatch | None
    """None: neuron for neuron."""


def match_layers(
    pivot: FoldedModel, source: FoldedModel, turn: ResidualMap | None, *, units: bool
) -> tuple[tuple[LayerMatch, ...], ...]:
    """Match layers of the source, and their units, to each layer of the pivot.

    Args:
        pivot: The pivot, folded.
        source: The source, folded.
        turn: The source's residual map; None in the pivot's frame.
        units: Match units by their similarity; otherwise they are paired in their own order.
    """
    n_pivot, n_source = (
        pivot.canonical.dimensions.n_layers,
        source.canonical.dimensions.n_layers,
    )
    same_units = have_same_units(pivot.canonical, source.canonical)

    def match(layer: int, source_layer: int, share: float) -> LayerMatch:
        heads, neurons = None, None
        if units:
            heads = _match_heads(pivot, source, turn, layer, source_layer)
            neurons = _match_neurons(pivot, source, turn, layer, source_layer)
        elif not same_units:
            heads = heads_in_order(pivot.canonical, source.canonical, layer, source_layer)
            neurons = neurons_in_order(pivot.canonical, source.canonical)
        return LayerMatch(layer=source_layer, share=share, heads=heads, neurons=neurons)

    def match_all(layer: int) -> tuple[LayerMatch, ...]:
        shares = layer_shares(layer, n_pivot=n_pivot, n_source=n_source)
        return tuple(match(layer, source_layer, share) for source_layer, share in shares)

    with _single_threaded_pool() as pool:
        return tuple(pool.map(match_all, range(n_pivot)))


def layer_shares(layer: int, *, n_pivot: int, n_source: int) -> tuple[tuple[int, float], ...]:
    """Interpolate a layer of the pivot between two layers of a source (paper).

    Args:
        layer: Layer of the pivot, from 0.
        n_pivot: Number of layers of the pivot.
        n_source: Number of layers of the source.

    Returns:
        (source layer, share) pairs, shares positive and summing to 1: two neighbouring layers,
        or one where the pivot's layer falls on it. First is matched to first and last to last;
        a pivot of one layer takes the source's first (ours).

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


def have_same_units(pivot: CanonicalModel, source: CanonicalModel) -> bool:
    """Return True if two models have equal numbers of heads and neurons, and equal head_dim."""
    pivot_sizes, source_sizes = (
        (sizes.n_heads, sizes.n_kv_heads, sizes.head_dim, sizes.n_neurons)
        for sizes in (pivot.dimensions, source.dimensions)
    )
    return pivot_sizes == source_sizes


def heads_in_order(
    pivot: CanonicalModel, source: CanonicalModel, layer: int, source_layer: int
) -> HeadMatch:
    """Pair key/value groups, and query heads inside them, in order; no weights are read.

    Heads that only the source has are dropped; heads that only the pivot has stay its own.
    """
    sizes, source_sizes = pivot.dimensions, source.dimensions
    groups, heads = torch.arange(sizes.n_kv_heads), torch.arange(sizes.n_heads)
    ratio = sizes.n_heads // sizes.n_kv_heads
    source_ratio = source_sizes.n_heads // source_sizes.n_kv_heads
    group, place = heads // ratio, heads % ratio
    is_paired = (group < source_sizes.n_kv_heads) & (place < source_ratio)
    group_index = torch.where(groups < source_sizes.n_kv_heads, groups, -1)
    pairs = pair_frequencies(sizes.rotary_of(layer), source_sizes.rotary_of(source_layer))
    present = (group_index >= 0).float()[:, None, None]
    inside = torch.zeros(sizes.head_dim, source_sizes.head_dim)
    inside[pairs.planes, pairs.source_planes] = 1.0
    free = slice(2 * len(pairs.index), None), slice(2 * pairs.n_source, None)
    inside[free] = torch.eye(*inside[free].shape)
    return HeadMatch(
        group_index=group_index,
        head_index=torch.where(is_paired, group * source_ratio + place, -1),
        qk=present * inside,
        vo=present * torch.eye(sizes.head_dim, source_sizes.head_dim),
        similarity=torch.zeros(sizes.n_kv_heads),
        exact=pairs.exact,
        q_scale=source_sizes.attention_scale / sizes.attention_scale,
        frequencies=sizes.rotary_of(layer),
        attention_scale=sizes.attention_scale,
    )


def neurons_in_order(pivot: CanonicalModel, source: CanonicalModel) -> NeuronMatch:
    """Pair neurons in their order; no weight is read."""
    places = torch.arange(pivot.dimensions.n_neurons)
    return NeuronMatch(
        index=torch.where(places < source.dimensions.n_neurons, places, -1),
        sign=torch.ones(len(places)),
        similarity=torch.zeros(len(places)),
    )


def express_block(
    source: FoldedModel, turn: ResidualMap | None, match: LayerMatch, *, attention: bool
) -> Parts:
    """Rewrite a block of the source in the pivot's residual frame, with the pivot's units.

    Args:
        source: The source, folded.
        turn: Its residual map; None in the pivot's frame.
        match: The layer of the source and its matched units.
        attention: Attention, else the MLP.

    Returns:
        The parts it has, zeros where a unit of the pivot has no counterpart: in the place of
        the pivot's they compute what the source computes.
    """
    parts = _read_turned(source, turn, ATTENTION if attention else MLP, match.layer)
    if attention and match.heads is not None:
        return place_heads(parts, match.heads, source.canonical, match.layer)
    if not attention and match.neurons is not None:
        return place_neurons(parts, match.neurons)
    return parts


@contextmanager
def _single_threaded_pool() -> Iterator[ThreadPoolExecutor]:
    """A pool of as many threads as torch uses, on which torch uses one each.

    Assignments run on one core whatever torch does, so layers in parallel keep all busy.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(n_threads, _MOST_AT_ONCE)) as pool:
            yield pool
    finally:
        torch.set_num_threads(n_threads)


def _match_heads(
    pivot: FoldedModel,
    source: FoldedModel,
    turn: ResidualMap | None,
    layer: int,
    source_layer: int,
) -> HeadMatch:
    pivot_parts = read_block(pivot.read, pivot.canonical, ATTENTION, layer)
    source_parts = _read_turned(source, turn, ATTENTION, source_layer)
    return match_heads(
        heads_of(pivot_parts, pivot.canonical, layer),
        heads_of(source_parts, source.canonical, source_layer),
        rotate_inner=pivot.canonical.family.qk_norm == "none",
    )


def _match_neurons(
    pivot: FoldedModel,
    source: FoldedModel,
    turn: ResidualMap | None,
    layer: int,
    source_layer: int,
) -> NeuronMatch:
    return match_neurons(
        neurons_of(read_block(pivot.read, pivot.canonical, MLP, layer)),
        neurons_of(_read_turned(source, turn, MLP, source_layer)),
    )


def _read_turned(
    source: FoldedModel, turn: ResidualMap | None, parts: tuple[Part, ...], layer: int
) -> Parts:
    return turn_block(read_block(source.read, source.canonical, parts, layer), turn)
