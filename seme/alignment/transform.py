"""What a map on the residual stream does to each canonical part of a folded model (ours).

A representation r of the source becomes T r in the pivot's space, so what writes into the stream
is multiplied by T from the left and what reads from it by T^-1 from the right. Behind a norm lengths
change with the width, for a norm divides by the root of the *mean* square: readers make up for
it by sqrt(K / P). Readers that no norm stands in front of (OLMo 2's blocks) see T r itself.

Shape suffixes: P the pivot's residual width, K the source's.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from seme.alignment.residual_map import ResidualMap
from seme.architecture.folding import NORM_IN_FRONT
from seme.architecture.parts import Part

READERS = frozenset({Part.Q, Part.K, Part.V, Part.GATE, Part.UP, Part.HEAD})
"""Inputs live in the residual stream: the last axis is its width."""
WRITERS = frozenset({Part.O, Part.DOWN, Part.O_BIAS, Part.DOWN_BIAS})
"""Outputs live in the residual stream: the first axis is its width."""
EMBEDDINGS = frozenset({Part.EMBEDDING, Part.POSITIONS})
"""Rows live in the residual stream."""
FINAL_NORMS = frozenset({Part.FINAL_NORM, Part.FINAL_NORM_BIAS})
"""Turned by :func:`turn_final_norm`, for what they become depends on the head behind them."""
_FOLDED_GAINS = frozenset({Part.ATTENTION_NORM, Part.MLP_NORM})
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
        part: What the values are.
        values: The source's, float32, canonical; never written to.
        turn: The source's map; None in the pivot's own frame.
        normed: Whether a norm stands in front of it; matters for readers only.

    Returns:
        The part with the pivot's width: readers W T^-1, times sqrt(K / P) behind a norm,
        writers and their biases T W, embeddings E T^T, folded norms, and what lies inside a
        block as it was.

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
    return _turn_block_norm(part, values, turn)


def turn_final_norm(
    part: Part, values: Tensor, turn: ResidualMap | None, *, head_scale: float
) -> Tensor:
    """Rewrite the gain or the bias of the final norm for the pivot's residual stream.

    Args:
        part: ``FINAL_NORM`` or ``FINAL_NORM_BIAS``.
        values: The source's, float32; never written to.
        turn: The source's map; None in the pivot's own frame.
        head_scale: What the head behind was multiplied by beside T^-1.

    Returns:
        T b / head_scale of a bias. Of a gain the diagonal D for which D T is nearest to
        T diag(g), times sqrt(K / P) / head_scale: ones where the gain was folded, exact where
        it is constant, and an approximation where a tied head kept another gain from folding.
    """
    if turn is None:
        return values
    if part is Part.FINAL_NORM_BIAS:
        return turn.forward_PK @ values / head_scale
    squares_PK = turn.forward_PK.square()
    nearest_P = (squares_PK @ values) / (squares_PK @ torch.ones_like(values))
    return nearest_P * (width_scale(turn) / head_scale)


def restrict_part(part: Part, pivot: Tensor, turn: ResidualMap | None) -> Tensor:
    """Take what of a pivot's part lies in directions that some direction of the source maps to.

    A source narrower than the pivot says nothing of the other directions.

    Args:
        part: What the tensor is.
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
    """Rewrite a norm for the pivot's width; what is no norm on the residual stream stays."""
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
            f"{float(gain.max()):.3g}: nothing reads behind it that they could be folded into, "
            "and a rotation of the residual stream is exact only where they are constant. Merge "
            "models of one frame; if these are fine-tunes of one base, raise identity_tolerance"
        )
