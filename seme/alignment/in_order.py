"""Units left in their own order, where the numbers of two models differ (ours).

The first heads and neurons of both stand on one another, without a look at their weights; what
one model has more of is left out, or left as the pivot's.
"""

import torch

from seme.alignment.attention import HeadMatch
from seme.alignment.mlp import NeuronMatch
from seme.alignment.rotary import pair_frequencies
from seme.architecture.model import Anatomy


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
