"""A layer's attention and MLP as units: canonical parts to heads and neurons and back (ours)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from seme.alignment.attention import HeadMatch, Heads, apply_heads, restrict_heads
from seme.alignment.mlp import NeuronMatch, Neurons, apply_neurons
from seme.architecture.model import Anatomy
from seme.architecture.parts import Part, Place

ATTENTION = (
    Part.ATTENTION_NORM,
    Part.ATTENTION_NORM_BIAS,
    Part.Q,
    Part.K,
    Part.V,
    Part.O,
    Part.Q_BIAS,
    Part.K_BIAS,
    Part.V_BIAS,
    Part.O_BIAS,
    Part.Q_NORM,
    Part.K_NORM,
    Part.ATTENTION_POST_NORM,
)
MLP = (
    Part.MLP_NORM,
    Part.MLP_NORM_BIAS,
    Part.GATE,
    Part.UP,
    Part.DOWN,
    Part.GATE_BIAS,
    Part.UP_BIAS,
    Part.DOWN_BIAS,
    Part.MLP_POST_NORM,
)

Parts = dict[Part, Tensor]
"""The canonical parts of one block."""


def read_block(
    read: Callable[[Place], Tensor], anatomy: Anatomy, parts: tuple[Part, ...], layer: int
) -> Parts:
    """Read those of the parts that the model has in a layer."""
    places = {part: Place(part, layer) for part in parts}
    return {part: read(place) for part, place in places.items() if place in anatomy.places}


def heads_of(parts: Mapping[Part, Tensor], anatomy: Anatomy, layer: int) -> Heads:
    """Take a layer's attention as heads."""
    sizes = anatomy.dimensions
    return Heads(
        q=parts[Part.Q],
        k=parts[Part.K],
        v=parts[Part.V],
        o=parts[Part.O],
        q_bias=parts.get(Part.Q_BIAS),
        k_bias=parts.get(Part.K_BIAS),
        v_bias=parts.get(Part.V_BIAS),
        n_heads=sizes.n_heads,
        n_kv=sizes.n_kv_heads,
        head_dim=sizes.head_dim,
        frequencies=sizes.rotary_of(layer),
        attention_scale=sizes.attention_scale,
    )


def neurons_of(parts: Mapping[Part, Tensor]) -> Neurons:
    """Take a layer's MLP as neurons."""
    return Neurons(
        gate=parts.get(Part.GATE),
        up=parts[Part.UP],
        down=parts[Part.DOWN],
        gate_bias=parts.get(Part.GATE_BIAS),
        up_bias=parts.get(Part.UP_BIAS),
    )


def place_heads(parts: Parts, match: HeadMatch, anatomy: Anatomy, layer: int) -> Parts:
    """Put a source's attention at the pivot's heads; zeros where there is no counterpart.

    Args:
        parts: The source's attention in the pivot's residual frame.
        match: Where its heads stand.
        anatomy: The source's.
        layer: The source's.
    """
    gains = _placed_gains(parts, match, anatomy)
    if gains:  # a norm undoes the scale of queries
        match = replace(match, q_scale=1.0)
    return parts | gains | _attention_parts(apply_heads(match, heads_of(parts, anatomy, layer)))


def restrict_to_heads(parts: Parts, match: HeadMatch, anatomy: Anatomy, layer: int) -> Parts:
    """Take what of the pivot's attention the source's heads stand in for, zeros elsewhere.

    Args:
        parts: The pivot's attention.
        match: Where the source's heads stand.
        anatomy: The pivot's.
        layer: The pivot's.
    """
    if _all_placed(match):
        return parts
    restricted = _attention_parts(restrict_heads(match, heads_of(parts, anatomy, layer)))
    return parts | restricted | _restricted_gains(parts, match, anatomy)


def place_neurons(parts: Parts, match: NeuronMatch) -> Parts:
    """Put a source's MLP at the pivot's neurons; zeros where there is no counterpart."""
    return parts | _mlp_parts(apply_neurons(match, neurons_of(parts)))


def restrict_to_neurons(parts: Parts, match: NeuronMatch) -> Parts:
    """Take what of the pivot's MLP the source's neurons stand in for, zeros elsewhere."""
    if bool(match.supported.all()):
        return parts
    own = torch.arange(len(match.index), device=match.index.device)
    itself = replace(
        match,
        index=torch.where(match.supported, own, -1),
        sign=torch.ones_like(match.sign),
    )
    return parts | _mlp_parts(apply_neurons(itself, neurons_of(parts)))


def _all_placed(match: HeadMatch) -> bool:
    """Whether every dimension of every head of the pivot has a counterpart."""
    if not bool((match.head_index >= 0).all()):
        return False
    ranks = torch.stack([match.qk, match.vo]).square().sum(dim=(2, 3))  # partial isometries
    return bool((ranks.round() == match.qk.shape[1]).all())


def _placed_gains(parts: Parts, match: HeadMatch, anatomy: Anatomy) -> Parts:
    """Take the gains of the norms of queries and keys to the pivot's heads and scale.

    Gains of a norm over all heads at once (OLMo 2) move with their heads, times the root of the
    source's heads over the pivot's: such a norm divides by the root of the *mean* square.
    """
    if anatomy.family.qk_norm == "none":
        return {}
    gains = {Part.Q_NORM: match.q_scale * parts[Part.Q_NORM], Part.K_NORM: parts[Part.K_NORM]}
    if anatomy.family.qk_norm == "head":
        return gains
    head_dim = anatomy.dimensions.head_dim
    for part, index in _heads_behind(match):
        heads = gains[part].view(-1, head_dim)
        placed = heads[index.clamp(min=0)] * (index >= 0)[:, None]
        gains[part] = placed.flatten() * math.sqrt(len(heads) / len(index))
    return gains


def _restricted_gains(parts: Parts, match: HeadMatch, anatomy: Anatomy) -> Parts:
    """Take a pivot's gains, one for each dimension of each head, where a source head stands."""
    if anatomy.family.qk_norm != "all":
        return {}
    return {
        part: parts[part] * (index >= 0).repeat_interleave(len(parts[part]) // len(index))
        for part, index in _heads_behind(match)
    }


def _heads_behind(match: HeadMatch) -> tuple[tuple[Part, Tensor], tuple[Part, Tensor]]:
    """Pair each norm of queries or keys with the source's head at each of the pivot's."""
    return (Part.Q_NORM, match.head_index), (Part.K_NORM, match.group_index)


def _attention_parts(heads: Heads) -> Parts:
    found = {
        Part.Q: heads.q,
        Part.K: heads.k,
        Part.V: heads.v,
        Part.O: heads.o,
        Part.Q_BIAS: heads.q_bias,
        Part.K_BIAS: heads.k_bias,
        Part.V_BIAS: heads.v_bias,
    }
    return {part: values for part, values in found.items() if values is not None}


def _mlp_parts(neurons: Neurons) -> Parts:
    found = {
        Part.GATE: neurons.gate,
        Part.UP: neurons.up,
        Part.DOWN: neurons.down,
        Part.GATE_BIAS: neurons.gate_bias,
        Part.UP_BIAS: neurons.up_bias,
    }
    return {part: values for part, values in found.items() if values is not None}
