"""Transform the canonical parts of a folded model by a residual map and by matched units.

A representation r of the source becomes T r in the pivot's space: writers into the stream are
multiplied by T from the left, readers by T^-1 from the right. After a norm lengths depend on
the width, as it divides by the root of the *mean* square: readers compensate by sqrt(K / P).
Readers without a norm in front (OLMo 2's blocks) see T r itself.

Shape suffixes: P the pivot's residual width, K the source's.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from seme.alignment.attention import HeadMatch, Heads, apply_heads, restrict_heads
from seme.alignment.mlp import NeuronMatch, Neurons, apply_neurons
from seme.alignment.residual_map import ResidualMap
from seme.architecture.folding import NORM_IN_FRONT
from seme.architecture.model import CanonicalModel
from seme.architecture.parts import Part, Place

READERS = frozenset({Part.Q, Part.K, Part.V, Part.GATE, Part.UP, Part.HEAD})
"""Inputs live in the residual stream: the last axis is its width."""
WRITERS = frozenset({Part.O, Part.DOWN, Part.O_BIAS, Part.DOWN_BIAS})
"""Outputs live in the residual stream: the first axis is its width."""
EMBEDDINGS = frozenset({Part.EMBEDDING, Part.POSITIONS})
"""Rows live in the residual stream."""
_FOLDED_GAINS = frozenset({Part.ATTENTION_NORM, Part.MLP_NORM, Part.FINAL_NORM})
_FOLDED_BIASES = frozenset({Part.ATTENTION_NORM_BIAS, Part.MLP_NORM_BIAS})
_POST_NORMS = frozenset({Part.ATTENTION_POST_NORM, Part.MLP_POST_NORM})


def width_scale(turn: ResidualMap) -> float:
    """sqrt(K / P): 1 between models of one width."""
    width_P, width_K = turn.forward_PK.shape
    return math.sqrt(width_K / width_P)


def turn_block(parts: Mapping[Part, Tensor], turn: ResidualMap | None) -> dict[Part, Tensor]:
    """Rewrite all parts of one block of a folded source; see :func:`turn_part`."""
    return {
        part: turn_part(part, values, turn, normed=NORM_IN_FRONT.get(part) in parts)
        for part, values in parts.items()
    }


def turn_part(part: Part, values: Tensor, turn: ResidualMap | None, *, normed: bool) -> Tensor:
    """Rewrite one part of a folded source for the pivot's residual stream.

    Args:
        part: Part that the values are of.
        values: The source's, float32, canonical; never written to.
        turn: The source's map; None in the pivot's own frame.
        normed: A norm is in front of it; matters for readers only.

    Returns:
        The part with the pivot's width: readers W T^-1, times sqrt(K / P) after a norm,
        writers and their biases T W, embeddings E T^T, the final norm's bias T b / sqrt(K / P),
        ones and zeros for folded norms, and parts inside a block unchanged.

    Raises:
        ValueError: If the part is a norm on a block's output whose gain is not constant.
    """
    if turn is None:
        return values
    if part in READERS:
        return values @ turn.backward_KP * (width_scale(turn) if normed else 1.0)
    if part in WRITERS:
        return turn.forward_PK @ values
    if part in EMBEDDINGS:
        return values @ turn.forward_PK.T
    if part is Part.FINAL_NORM_BIAS:  # the head after it is scaled by the width
        return turn.forward_PK @ values / width_scale(turn)
    return _turn_block_norm(part, values, turn)


def restrict_part(part: Part, pivot: Tensor, turn: ResidualMap | None) -> Tensor:
    """Project a part of the pivot on the range of the map.

    A source narrower than the pivot determines no other direction.

    Args:
        part: Part that the tensor is.
        pivot: The pivot's part, folded.
        turn: The source's map.
    """
    if turn is None or turn.support_PP is None:
        return pivot
    if part in READERS or part in EMBEDDINGS:
        return pivot @ turn.support_PP
    if part in WRITERS or part is Part.FINAL_NORM_BIAS:
        return turn.support_PP @ pivot
    return pivot


def _turn_block_norm(part: Part, values: Tensor, turn: ResidualMap) -> Tensor:
    """Rewrite a norm for the pivot's width; a part inside a block stays."""
    width = len(turn.forward_PK)
    if part in _FOLDED_GAINS:
        return values.new_ones(width)
    if part in _FOLDED_BIASES:
        return values.new_zeros(width)
    if part in _POST_NORMS:
        _demand_constant(part, values)
        return values.new_full((width,), float(values[0]) * width_scale(turn))
    return values


def _demand_constant(part: Part, gain: Tensor) -> None:
    if bool((gain != gain[0]).any()):
        raise ValueError(
            f"{part} is a norm on a block's output with gains from {float(gain.min()):.3g} to "
            f"{float(gain.max()):.3g}: no reader follows that they could be folded into, "
            "and a rotation of the residual stream is exact only where they are constant. "
            "Merge models of one frame; if these are fine-tunes of one base, raise "
            "alignment.identity_tolerance"
        )


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
    read: Callable[[Place], Tensor], model: CanonicalModel, parts: tuple[Part, ...], layer: int
) -> Parts:
    """Read those of the parts that the model has in a layer."""
    places = {part: Place(part, layer) for part in parts}
    return {part: read(place) for part, place in places.items() if place in model.places}


def heads_of(parts: Mapping[Part, Tensor], model: CanonicalModel, layer: int) -> Heads:
    """Take a layer's attention as heads."""
    sizes = model.dimensions
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


def place_heads(parts: Parts, match: HeadMatch, model: CanonicalModel, layer: int) -> Parts:
    """Put a source's attention at the pivot's heads; zeros where there is no counterpart.

    Args:
        parts: The source's attention in the pivot's residual frame.
        match: Matched heads.
        model: The source's.
        layer: The source's.
    """
    gains = _placed_gains(parts, match, model)
    if gains:  # a norm undoes the scale of queries
        match = replace(match, q_scale=1.0)
    return parts | gains | _attention_parts(apply_heads(match, heads_of(parts, model, layer)))


def restrict_to_heads(
    parts: Parts, match: HeadMatch, model: CanonicalModel, layer: int
) -> Parts:
    """Mask the pivot's attention to what has a counterpart in the source, zeros elsewhere.

    Args:
        parts: The pivot's attention.
        match: Matched heads.
        model: The pivot's.
        layer: The pivot's.
    """
    if _all_placed(match):
        return parts
    restricted = _attention_parts(restrict_heads(match, heads_of(parts, model, layer)))
    return parts | restricted | _restricted_gains(parts, match, model)


def place_neurons(parts: Parts, match: NeuronMatch) -> Parts:
    """Put a source's MLP at the pivot's neurons; zeros where there is no counterpart."""
    return parts | _mlp_parts(apply_neurons(match, neurons_of(parts)))


def restrict_to_neurons(parts: Parts, match: NeuronMatch) -> Parts:
    """Mask the pivot's MLP to neurons that have a counterpart, zeros elsewhere."""
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
    """Return True if every dimension of every head of the pivot has a counterpart."""
    if not bool((match.head_index >= 0).all()):
        return False
    ranks = torch.stack([match.qk, match.vo]).square().sum(dim=(2, 3))  # partial isometries
    return bool((ranks.round() == match.qk.shape[1]).all())


def _placed_gains(parts: Parts, match: HeadMatch, model: CanonicalModel) -> Parts:
    """Take the gains of the norms of queries and keys to the pivot's heads and scale.

    Gains of a norm over all heads at once (OLMo 2) move with their heads, times the root of the
    source's heads over the pivot's: such a norm divides by the root of the *mean* square.
    """
    if model.family.qk_norm == "none":
        return {}
    gains = {Part.Q_NORM: match.q_scale * parts[Part.Q_NORM], Part.K_NORM: parts[Part.K_NORM]}
    if model.family.qk_norm == "head":
        return gains
    head_dim = model.dimensions.head_dim
    for part, index in _matches_of_norms(match):
        heads = gains[part].view(-1, head_dim)
        placed = heads[index.clamp(min=0)] * (index >= 0)[:, None]
        gains[part] = placed.flatten() * math.sqrt(len(heads) / len(index))
    return gains


def _restricted_gains(parts: Parts, match: HeadMatch, model: CanonicalModel) -> Parts:
    """Mask a pivot's gains, one per dimension and head, to heads with a counterpart."""
    if model.family.qk_norm != "all":
        return {}
    return {
        part: parts[part] * (index >= 0).repeat_interleave(len(parts[part]) // len(index))
        for part, index in _matches_of_norms(match)
    }


def _matches_of_norms(match: HeadMatch) -> tuple[tuple[Part, Tensor], tuple[Part, Tensor]]:
    """Pair each norm of queries or keys with the source's head at each of the pivot's."""
    return (Part.Q_NORM, match.head_index), (Part.K_NORM, match.group_index)


def _attention_parts(heads: Heads) -> Parts:
    parts = {
        Part.Q: heads.q,
        Part.K: heads.k,
        Part.V: heads.v,
        Part.O: heads.o,
        Part.Q_BIAS: heads.q_bias,
        Part.K_BIAS: heads.k_bias,
        Part.V_BIAS: heads.v_bias,
    }
    return {part: values for part, values in parts.items() if values is not None}


def _mlp_parts(neurons: Neurons) -> Parts:
    parts = {
        Part.GATE: neurons.gate,
        Part.UP: neurons.up,
        Part.DOWN: neurons.down,
        Part.GATE_BIAS: neurons.gate_bias,
        Part.UP_BIAS: neurons.up_bias,
    }
    return {part: values for part, values in parts.items() if values is not None}
