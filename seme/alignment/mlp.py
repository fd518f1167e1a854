"""Match the neurons of two MLPs by the vectors that they read and write.

Ours (the paper, https://arxiv.org/abs/2505.20144, leaves units inside a layer alone): two
models without a common ancestor order their neurons differently. A neuron is what it reads (its
rows of gate and up) and what it writes (its column of down); with the source in the pivot's
residual frame both can be compared, without data. Permuting neurons, and in a gated MLP
flipping the sign of (up, down), leaves the function of the MLP unchanged.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seme.alignment.assignment import assign


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neurons:
    """One MLP: down(act(gate x) * up x), or down(act(up x)) without a gate.

    Float32, gains of the norm in front folded in. The bias of down belongs to the residual
    stream, not to a neuron.
    """

    gate: Tensor | None
    """(neurons, width); None in an MLP without a gate."""
    up: Tensor
    """(neurons, width)."""
    down: Tensor
    """(width, neurons)."""
    gate_bias: Tensor | None = None
    """(neurons,)."""
    up_bias: Tensor | None = None
    """(neurons,)."""

    def __post_init__(self) -> None:
        expected = tuple(self.up.shape)
        if self.gate is not None and tuple(self.gate.shape) != expected:
            raise ValueError(
                f"gate must be shaped like up, {expected}, got {tuple(self.gate.shape)}"
            )
        if tuple(self.down.shape) != expected[::-1]:
            raise ValueError(
                f"down must be (width, neurons), {expected[::-1]}, got {tuple(self.down.shape)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NeuronMatch:
    """Source neurons matched to the pivot's."""

    index: Tensor
    """(n_pivot,) int64: the source neuron, -1 without a counterpart."""
    sign: Tensor
    """(n_pivot,) float32: factor of (up, down), 1 or -1; 1 without a gate."""
    similarity: Tensor
    """(n_pivot,) float32: mean cosine of the matched vectors in [-1, 1], 0 without one."""

    @property
    def supported(self) -> Tensor:
        """(n_pivot,) bool: the pivot's neuron has a counterpart."""
        return self.index >= 0


def match_neurons(pivot: Neurons, source: Neurons) -> NeuronMatch:
    """Assign source neurons to pivot neurons so that their summed similarity is greatest.

    Directions only, so that up * c with down / c is the same neuron. Fewer source neurons leave
    pivot neurons without a counterpart, more leave source neurons unused.

    Args:
        pivot: MLP of the pivot.
        source: MLP of the source in the pivot's residual frame.

    Raises:
        ValueError: If the two differ in width, or only one has a gate.
    """
    _check_comparable(pivot, source)
    similarity = neuron_similarity(pivot, source)
    index = assign(similarity)
    matched, chosen = index >= 0, index.clamp(min=0)
    turned = (_pair_directions(pivot) * _pair_directions(source)[chosen]).sum(dim=1) < 0
    flips = turned & matched & (pivot.gate is not None)
    return NeuronMatch(
        index=index,
        sign=torch.where(flips, -1.0, 1.0),
        similarity=torch.where(matched, similarity.gather(1, chosen[:, None])[:, 0], 0.0),
    )


def neuron_similarity(pivot: Neurons, source: Neurons) -> Tensor:
    """Compare all neurons by the mean cosine of the vectors they read and write.

    Gated: (cos(gate) + |cos(up) + cos(down)|) / 3, as the sign of (up, down) is free and
    that of the gate is not. Without a gate: (cos(up) + cos(down)) / 2. A bias counts as the
    weight of one more input that is always one.

    Returns:
        (n_pivot, n_source) float32 in [-1, 1]. A vector of zeros has cosine 0 with everything.
    """
    similarity = _pair_directions(pivot) @ _pair_directions(source).T
    if pivot.gate is None or source.gate is None:
        return similarity.div_(2).clamp_(-1, 1)
    pivot_gate = _directions(pivot.gate, pivot.gate_bias)
    source_gate = _directions(source.gate, source.gate_bias)
    return similarity.abs_().addmm_(pivot_gate, source_gate.T).div_(3).clamp_(-1, 1)


def apply_neurons(match: NeuronMatch, source: Neurons) -> Neurons:
    """Put the source's neurons in the pivot's places, zeros where there is no counterpart.

    With every source neuron placed, the MLP computes what it did before.
    """
    chosen, placed = match.index.clamp(min=0), match.supported.to(source.up.dtype)
    signed = placed * match.sign
    return Neurons(
        gate=None if source.gate is None else placed[:, None] * source.gate[chosen],
        up=signed[:, None] * source.up[chosen],
        down=signed * source.down[:, chosen],
        gate_bias=None if source.gate_bias is None else placed * source.gate_bias[chosen],
        up_bias=None if source.up_bias is None else signed * source.up_bias[chosen],
    )


def _check_comparable(pivot: Neurons, source: Neurons) -> None:
    """Refuse MLPs of different widths, and a gated MLP with one without a gate."""
    if pivot.up.shape[1] != source.up.shape[1]:
        raise ValueError(
            "neurons are compared in one residual frame, got width "
            f"{pivot.up.shape[1]} of the pivot and {source.up.shape[1]} of the source; "
            "apply the residual map to the source first"
        )
    if (pivot.gate is None) != (source.gate is None):
        gated, plain = ("source", "pivot") if pivot.gate is None else ("pivot", "source")
        raise ValueError(
            f"the {gated} has a gated MLP and the {plain} has not: their neurons compute "
            "different functions and cannot be matched; leave MLPs out of this merge"
        )


def _pair_directions(neurons: Neurons) -> Tensor:
    """Join the unit vectors of up and down, whose sign is shared; (neurons, 2 width + 1)."""
    written = normalize(neurons.down.T, dim=1)
    return torch.cat([_directions(neurons.up, neurons.up_bias), written], dim=1)


def _directions(rows: Tensor, bias: Tensor | None) -> Tensor:
    """Scale reading vectors to unit length, bias included; (neurons, width + 1)."""
    bias = rows.new_zeros(len(rows)) if bias is None else bias
    return normalize(torch.cat([rows, bias[:, None]], dim=1), dim=1)
