"""Canonical parts of a transformer, their places, and how tensors on disk hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import torch
from torch import Tensor


class Part(StrEnum):
    """Kind of a canonical part, with its shape; linear layers are (outputs, inputs)."""

    EMBEDDING = "embedding"
    """(tokens, width), scaled as it enters the residual stream."""
    POSITIONS = "positions"
    """(positions, width), learned positions, added to the embedding."""
    HEAD = "head"
    """(tokens, width)"""
    FINAL_NORM = "final_norm"
    """(width,), gain of the norm before the LM head; gains are the factors applied."""
    FINAL_NORM_BIAS = "final_norm_bias"
    """(width,)"""
    ATTENTION_NORM = "attention_norm"
    """(width,), gain of the norm before attention."""
    ATTENTION_NORM_BIAS = "attention_norm_bias"
    """(width,)"""
    ATTENTION_POST_NORM = "attention_post_norm"
    """(width,), gain of a norm on attention's output (Gemma 2 and 3, OLMo 2)."""
    Q = "q"
    """(heads * head_dim, width)"""
    K = "k"
    """(kv_heads * head_dim, width)"""
    V = "v"
    """(kv_heads * head_dim, width)"""
    O = "o"  # noqa: E741  (its name in the field)
    """(width, heads * head_dim)"""
    Q_BIAS = "q_bias"
    """(heads * head_dim,)"""
    K_BIAS = "k_bias"
    """(kv_heads * head_dim,)"""
    V_BIAS = "v_bias"
    """(kv_heads * head_dim,)"""
    O_BIAS = "o_bias"
    """(width,)"""
    Q_NORM = "q_norm"
    """(head_dim,), one gain for all heads; (heads * head_dim,) in OLMo 2."""
    K_NORM = "k_norm"
    """(head_dim,); (kv_heads * head_dim,) in OLMo 2."""
    MLP_NORM = "mlp_norm"
    """(width,), gain of the norm before the MLP."""
    MLP_NORM_BIAS = "mlp_norm_bias"
    """(width,)"""
    MLP_POST_NORM = "mlp_post_norm"
    """(width,), gain of a norm on the MLP's output."""
    GATE = "gate"
    """(neurons, width)"""
    UP = "up"
    """(neurons, width)"""
    DOWN = "down"
    """(width, neurons)"""
    GATE_BIAS = "gate_bias"
    """(neurons,)"""
    UP_BIAS = "up_bias"
    """(neurons,)"""
    DOWN_BIAS = "down_bias"
    """(width,)"""
    ROUTER = "router"
    """(experts, width)"""
    EXPERT_GATE = "expert_gate"
    """(expert_neurons, width), one per expert."""
    EXPERT_UP = "expert_up"
    """(expert_neurons, width), one per expert."""
    EXPERT_DOWN = "expert_down"
    """(width, expert_neurons), one per expert."""
    CONSTANT = "constant"
    """Any shape: rotary frequencies and causal masks of old checkpoints; to be copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Layout of one tensor on disk: the canonical parts it holds."""

    parts: tuple[Part, ...]
    """Parts in the order of their rows."""
    interleaved: bool = False
    """True if the parts alternate head by head: q, k, v of head 0, then of head 1."""
    transposed: bool = False
    """True if stored as (inputs, outputs)."""
    present: Literal["always", "all or none", "dense", "sparse"] = "always"
    """Layers that have it: all; all or none; those without a router; those with one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Place of a canonical part in a model; ordered by layer, expert, then part."""

    part: Part
    layer: int | None = None
    """None for embeddings, LM head and final norm."""
    expert: int | None = None
    """None for all but the experts of a mixture."""

    def __lt__(self, other: "Place") -> bool:
        return self._order() < other._order()

    def __str__(self) -> str:
        """Return a phrase such as ``q of layer 3``."""
        layer = "" if self.layer is None else f" of layer {self.layer}"
        return f"{self.part}{layer}" + (
            "" if self.expert is None else f", expert {self.expert}"
        )

    def _order(self) -> tuple[int, int, str]:
        layer = -1 if self.layer is None else self.layer
        return layer, -1 if self.expert is None else self.expert, self.part


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """An architecture: names and layouts of its tensors, conventions; defaults are Llama's."""

    stored: Mapping[str, Stored]
    """Tensor name to layout; ``*`` in a name is the layer's number, a second the expert's."""
    norm: Literal["rms", "layer"] = "rms"
    """LayerNorm subtracts a mean, which only some rotations of the residual stream preserve."""
    gain_offset: float = 0.0
    """Added to a stored gain before it multiplies: 1 in Gemma."""
    scaled_embedding: bool = False
    """True if sqrt(width) times the stored embedding enters the residual stream."""
    gated: bool = True
    """True if the MLP is down(act(gate x) * up x), False if it is down(act(up x))."""
    qk_norm: Literal["none", "head", "all"] = "none"
    """Norms of queries and keys: none, within each head, or over all heads at once."""
    positions: Literal["rope", "learned"] = "rope"
    parallel: bool = False
    """True if attention and MLP read the same residual stream (GPT-NeoX; config overrides)."""
    same_frame_only: str | None = None
    """Reason why a source must be in the pivot's frame already; None if any can be aligned."""
    tied: bool = False
    """True if the LM head is the embedding and may be missing; the config overrides."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies, if the config has none."""
    local_rope_theta: float | None = None
    """Base in layers of sliding attention, if it differs (Gemma 3)."""
    rotary_share: float | None = None
    """Share of a head that is rotated, if the config has none; None: always all of it."""
    query_scalar: str | None = None
    """Config entry whose inverse root scales attention; None: the head's dimension."""
    optional_prefix: str = ""
    """Prefix that checkpoints may omit from tensor names."""
    model_type: str = ""
    """From the config, as are the next two."""
    n_layers: int = 0
    n_experts: int = 0


def split(
    tensor: Tensor, stored: Stored, *, rows: Sequence[int], head_dim: int
) -> tuple[Tensor, ...]:
    """Split a stored tensor into its canonical parts.

    Args:
        tensor: The tensor on disk. Never written to.
        stored: Its layout.
        rows: Number of rows (outputs) of each part, in order.
        head_dim: Dimension of an attention head; used for interleaved parts only.

    Returns:
        Views of the tensor in canonical shapes; copies if the parts are interleaved.
    """
    if stored.transposed:
        tensor = tensor.T
    if not stored.interleaved:
        return tensor.split_with_sizes(list(rows))
    by_head = tensor.reshape(-1, len(stored.parts), head_dim, *tensor.shape[1:])
    return tuple(part.flatten(0, 1) for part in by_head.unbind(1))


def fuse(parts: Sequence[Tensor], stored: Stored, *, head_dim: int) -> Tensor:
    """Join canonical parts to a stored tensor: the inverse of :func:`split`."""
    if stored.interleaved:
        by_head = [part.reshape(-1, head_dim, *part.shape[1:]) for part in parts]
        tensor = torch.stack(by_head, dim=1).flatten(0, 2)
    else:
        tensor = torch.cat(list(parts))
    return tensor.T.contiguous() if stored.transposed else tensor
