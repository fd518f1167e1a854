"""The canonical parts of a transformer, where each stands, and how a tensor on disk holds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import torch
from torch import Tensor


class Part(StrEnum):
    """A canonical piece of a model, with its shape; linear layers are outputs x inputs."""

    EMBEDDING = "embedding"
    """(tokens, width), as it enters the residual stream."""
    POSITIONS = "positions"
    """(positions, width), learned positions, added to the embedding."""
    HEAD = "head"
    """(tokens, width)"""
    FINAL_NORM = "final_norm"
    """(width,), the gain of the norm in front of the head, as it multiplies."""
    FINAL_NORM_BIAS = "final_norm_bias"
    """(width,)"""
    ATTENTION_NORM = "attention_norm"
    """(width,), the gain of the norm in front of attention."""
    ATTENTION_NORM_BIAS = "attention_norm_bias"
    """(width,)"""
    ATTENTION_POST_NORM = "attention_post_norm"
    """(width,), the gain of a norm on attention's output (Gemma 2 and 3, OLMo 2)."""
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
    """(head_dim,), one gain for every head; (heads * head_dim,) over all heads in OLMo 2."""
    K_NORM = "k_norm"
    """(head_dim,); (kv_heads * head_dim,) in OLMo 2."""
    MLP_NORM = "mlp_norm"
    """(width,), the gain of the norm in front of the MLP."""
    MLP_NORM_BIAS = "mlp_norm_bias"
    """(width,)"""
    MLP_POST_NORM = "mlp_post_norm"
    """(width,), the gain of a norm on the MLP's output."""
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
    """How one tensor on disk holds canonical parts."""

    parts: tuple[Part, ...]
    """Its parts in order, one below the other."""
    interleaved: bool = False
    """Whether the parts alternate head by head: [q, k, v] of head 0, then of head 1."""
    transposed: bool = False
    """Whether it is stored inputs x outputs."""
    present: Literal["always", "all or none", "dense", "sparse"] = "always"
    """In which layers: every one; every one or none; those without a router; those with one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a canonical part stands in a model; ordered by layer, expert, then part."""

    part: Part
    layer: int | None = None
    """None outside the layers."""
    expert: int | None = None
    """None outside the experts of a mixture."""

    def __lt__(self, other: "Place") -> bool:
        return self._order() < other._order()

    def __str__(self) -> str:
        """Say where: ``q of layer 3``."""
        layer = "" if self.layer is None else f" of layer {self.layer}"
        return f"{self.part}{layer}" + (
            "" if self.expert is None else f", expert {self.expert}"
        )

    def _order(self) -> tuple[int, int, str]:
        layer = -1 if self.layer is None else self.layer
        return layer, -1 if self.expert is None else self.expert, self.part


def split(
    tensor: Tensor, stored: Stored, *, rows: Sequence[int], head_dim: int
) -> tuple[Tensor, ...]:
    """Take a stored tensor apart.

    Args:
        tensor: As on disk. Never written to.
        stored: How it holds its parts.
        rows: Rows of each part (outputs), in order.
        head_dim: Dimension of a head; matters for interleaved parts only.

    Returns:
        Views of the tensor in canonical shape (a copy where parts are interleaved).
    """
    if stored.transposed:
        tensor = tensor.T
    if not stored.interleaved:
        return tensor.split_with_sizes(list(rows))
    by_head = tensor.reshape(-1, len(stored.parts), head_dim, *tensor.shape[1:])
    return tuple(part.flatten(0, 1) for part in by_head.unbind(1))


def fuse(parts: Sequence[Tensor], stored: Stored, *, head_dim: int) -> Tensor:
    """Put canonical parts back together: the inverse of :func:`split`."""
    if stored.interleaved:
        by_head = [part.reshape(-1, head_dim, *part.shape[1:]) for part in parts]
        tensor = torch.stack(by_head, dim=1).flatten(0, 2)
    else:
        tensor = torch.cat(list(parts))
    return tensor.T.contiguous() if stored.transposed else tensor
