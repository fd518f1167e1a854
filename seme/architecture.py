"""What every tensor of a supported architecture does, as tables (ours).

A map on the residual stream acts on a tensor by its role, and the gain of each norm can be
folded only into the tensors that read behind it. Both facts are tables here, keyed by the names
transformers writes, with ``*`` for the layer's number.

To support another architecture, add a line to ``_ROLES``. It must normalise with RMSNorm and only
what a block *reads*: LayerNorm subtracts a mean, which a rotation does not preserve, and a norm on
a block's output (Gemma 2 and 3, OLMo 2) has no reader to fold its gain into.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seme.types import Role

_WEIGHTS: Mapping[str, Role] = {
    "model.embed_tokens.weight": Role.EMBEDDING,
    "model.layers.*.input_layernorm.weight": Role.NORM,
    "model.layers.*.self_attn.q_proj.weight": Role.READER,
    "model.layers.*.self_attn.k_proj.weight": Role.READER,
    "model.layers.*.self_attn.v_proj.weight": Role.READER,
    "model.layers.*.self_attn.o_proj.weight": Role.WRITER,
    "model.layers.*.post_attention_layernorm.weight": Role.NORM,
    "model.layers.*.mlp.gate_proj.weight": Role.READER,
    "model.layers.*.mlp.up_proj.weight": Role.READER,
    "model.layers.*.mlp.down_proj.weight": Role.WRITER,
    "model.norm.weight": Role.NORM,
    "lm_head.weight": Role.HEAD,
    # The constant frequencies that old checkpoints store: inside a head, like an inner bias.
    "model.layers.*.self_attn.rotary_emb.inv_freq": Role.INNER_BIAS,
}
_QKV_BIASES: Mapping[str, Role] = {
    "model.layers.*.self_attn.q_proj.bias": Role.INNER_BIAS,
    "model.layers.*.self_attn.k_proj.bias": Role.INNER_BIAS,
    "model.layers.*.self_attn.v_proj.bias": Role.INNER_BIAS,
}
_O_BIAS: Mapping[str, Role] = {"model.layers.*.self_attn.o_proj.bias": Role.WRITER_BIAS}
_MLP_BIASES: Mapping[str, Role] = {
    "model.layers.*.mlp.gate_proj.bias": Role.INNER_BIAS,
    "model.layers.*.mlp.up_proj.bias": Role.INNER_BIAS,
    "model.layers.*.mlp.down_proj.bias": Role.WRITER_BIAS,
}
_QK_NORMS: Mapping[str, Role] = {
    "model.layers.*.self_attn.q_norm.weight": Role.INNER_NORM,
    "model.layers.*.self_attn.k_norm.weight": Role.INNER_NORM,
}

_ROLES: Mapping[str, Mapping[str, Role]] = {
    "llama": {**_WEIGHTS, **_QKV_BIASES, **_O_BIAS, **_MLP_BIASES},
    "mistral": _WEIGHTS,
    "qwen2": {**_WEIGHTS, **_QKV_BIASES},
    "qwen3": {**_WEIGHTS, **_QKV_BIASES, **_O_BIAS, **_QK_NORMS},
}

_NORM_IN_FRONT: Mapping[str, str] = {
    "model.layers.*.self_attn.q_proj.weight": "model.layers.*.input_layernorm.weight",
    "model.layers.*.self_attn.k_proj.weight": "model.layers.*.input_layernorm.weight",
    "model.layers.*.self_attn.v_proj.weight": "model.layers.*.input_layernorm.weight",
    "model.layers.*.mlp.gate_proj.weight": "model.layers.*.post_attention_layernorm.weight",
    "model.layers.*.mlp.up_proj.weight": "model.layers.*.post_attention_layernorm.weight",
    "lm_head.weight": "model.norm.weight",
}

_LAYER = re.compile(r"(?<=^model\.layers\.)\d+(?=\.)")


def roles_of(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Role]:
    """Look up what every tensor of a model does.

    Args:
        config: The model's configuration; only ``model_type`` is read.
        names: Names of the tensors on disk.

    Returns:
        The role of each name, in the order of ``names``.

    Raises:
        ValueError: If the architecture is not in the tables, or a tensor has no role in it.
    """
    model_type = config.get("model_type")
    table = _ROLES.get(str(model_type))
    if table is None:
        raise ValueError(
            f"model_type must be one of {sorted(_ROLES)} for a model to be rotated (RMSNorm in "
            f"front of every block, no norm behind one), got {model_type!r}; choose sources in "
            "the pivot's own frame"
        )
    unknown = sorted(name for name in names if _pattern(name) not in table)
    if unknown:
        raise ValueError(
            f"every tensor of a {model_type} model needs a role, {len(unknown)} have none: "
            f"{unknown[:3]}; add them to seme/architecture.py or remove them from the checkpoint"
        )
    return {name: table[_pattern(name)] for name in names}


def gain_in_front_of(name: str) -> str | None:
    """Name the norm whose gain can be folded into a tensor; None for all but readers and heads.

    Args:
        name: A tensor of a model whose architecture :func:`roles_of` knows.
    """
    norm = _NORM_IN_FRONT.get(_pattern(name))
    layer = _LAYER.search(name)
    return norm.replace("*", layer[0]) if norm and layer else norm


def _pattern(name: str) -> str:
    return _LAYER.sub("*", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout:
    """The end of a model: logits = norm(h) diag(gain) H^T."""

    head: str
    """Name of the output head H; the embedding where the two are tied."""
    norm: str
    """Name of the final norm's stored gain."""
    gain_offset: float
    """What is added to the stored gain: 1 where the convention is 1 + g, else 0."""
    tied: bool
    """Whether the head is the embedding."""


_ENDS = (
    ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"),
    ("lm_head.weight", "model.embed_tokens.weight", "model.final_layernorm.weight"),
    ("lm_head.weight", "transformer.wte.weight", "transformer.ln_f.weight"),
    ("lm_head.weight", "wte.weight", "ln_f.weight"),
    ("embed_out.weight", "gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm.weight"),
)
_OFFSET_GAINS = ("gemma", "gemma2", "gemma3", "gemma3_text", "qwen3_next")


def readout_of(config: Mapping[str, Any], names: Sequence[str]) -> Readout:
    """Find the output head and the final norm; any architecture in which they can be found.

    Args:
        config: The model's configuration; ``tie_word_embeddings`` and ``model_type`` are read.
        names: Names of the tensors on disk; a missing head means that it is tied.

    Raises:
        ValueError: If the final norm and the embedding stand under no name known here.
    """
    for head, embedding, norm in _ENDS:
        if {embedding, norm} <= set(names):
            tied = bool(config.get("tie_word_embeddings")) or head not in names
            offset = 1.0 if config.get("model_type") in _OFFSET_GAINS else 0.0
            name = embedding if tied else head
            return Readout(head=name, norm=norm, gain_offset=offset, tied=tied)
    pairs = [(embedding, norm) for _, embedding, norm in _ENDS]
    raise ValueError(
        f"semantic bases need the output head behind the final norm: one of {pairs} was expected "
        f"in the checkpoint (model_type {config.get('model_type')!r}), which begins with "
        f"{sorted(names)[:3]}; add its names to seme/architecture.py"
    )
