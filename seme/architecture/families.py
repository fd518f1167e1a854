"""Architecture facts: a table per architecture; names of LM heads and embeddings.

Architectures store the same canonical parts under different names, fused, transposed or with
another convention. A table maps the names that transformers writes to parts. To support another
architecture, add it to ``_FAMILIES``; fields that are not given are as in Llama.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from seme.architecture.parts import Family, Part, Stored
from seme.checkpoint.regular_file import brief, shown


def _one(part: Part, **layout: Any) -> Stored:  # noqa: ANN401  (Stored's own fields)
    return Stored(parts=(part,), **layout)


def _layers(prefix: str, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    return {f"{prefix}.*.{name}": tensor for name, tensor in stored.items()}


def _may(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    return {name: replace(tensor, present="all or none") for name, tensor in stored.items()}


_QKV = (Part.Q, Part.K, Part.V)
_QKV_BIAS = (Part.Q_BIAS, Part.K_BIAS, Part.V_BIAS)

_ENDS = {
    "model.embed_tokens.weight": _one(Part.EMBEDDING),
    "model.norm.weight": _one(Part.FINAL_NORM),
    "lm_head.weight": _one(Part.HEAD),
}
_PRE_NORMS = {
    "input_layernorm.weight": _one(Part.ATTENTION_NORM),
    "post_attention_layernorm.weight": _one(Part.MLP_NORM),
}
_POST_NORMS = {
    "post_attention_layernorm.weight": _one(Part.ATTENTION_POST_NORM),
    "post_feedforward_layernorm.weight": _one(Part.MLP_POST_NORM),
}
_SANDWICH_NORMS = {
    "input_layernorm.weight": _one(Part.ATTENTION_NORM),
    "pre_feedforward_layernorm.weight": _one(Part.MLP_NORM),
    **_POST_NORMS,
}
_ATTENTION = {
    "self_attn.q_proj.weight": _one(Part.Q),
    "self_attn.k_proj.weight": _one(Part.K),
    "self_attn.v_proj.weight": _one(Part.V),
    "self_attn.o_proj.weight": _one(Part.O),
    "self_attn.rotary_emb.inv_freq": _one(Part.CONSTANT, present="all or none"),
}
_QKV_BIASES = {
    "self_attn.q_proj.bias": _one(Part.Q_BIAS),
    "self_attn.k_proj.bias": _one(Part.K_BIAS),
    "self_attn.v_proj.bias": _one(Part.V_BIAS),
}
_ATTENTION_BIASES = _may({**_QKV_BIASES, "self_attn.o_proj.bias": _one(Part.O_BIAS)})
_QK_NORMS = {
    "self_attn.q_norm.weight": _one(Part.Q_NORM),
    "self_attn.k_norm.weight": _one(Part.K_NORM),
}
_MLP = {
    "mlp.gate_proj.weight": _one(Part.GATE),
    "mlp.up_proj.weight": _one(Part.UP),
    "mlp.down_proj.weight": _one(Part.DOWN),
}
_MLP_BIASES = {
    "mlp.gate_proj.bias": _one(Part.GATE_BIAS),
    "mlp.up_proj.bias": _one(Part.UP_BIAS),
    "mlp.down_proj.bias": _one(Part.DOWN_BIAS),
}
_PHI3_LAYER = {
    **_PRE_NORMS,
    "self_attn.qkv_proj.weight": Stored(parts=_QKV),
    "self_attn.o_proj.weight": _one(Part.O),
    "mlp.gate_up_proj.weight": Stored(parts=(Part.GATE, Part.UP)),
    "mlp.down_proj.weight": _one(Part.DOWN),
}
_GPT2 = {
    "transformer.wte.weight": _one(Part.EMBEDDING),
    "transformer.wpe.weight": _one(Part.POSITIONS),
    "transformer.ln_f.weight": _one(Part.FINAL_NORM),
    "transformer.ln_f.bias": _one(Part.FINAL_NORM_BIAS),
    "lm_head.weight": _one(Part.HEAD),
}
_GPT2_LAYER = {
    "ln_1.weight": _one(Part.ATTENTION_NORM),
    "ln_1.bias": _one(Part.ATTENTION_NORM_BIAS),
    "attn.c_attn.weight": Stored(parts=_QKV, transposed=True),
    "attn.c_attn.bias": Stored(parts=_QKV_BIAS),
    "attn.c_proj.weight": _one(Part.O, transposed=True),
    "attn.c_proj.bias": _one(Part.O_BIAS),
    "attn.bias": _one(Part.CONSTANT, present="all or none"),
    "attn.masked_bias": _one(Part.CONSTANT, present="all or none"),
    "ln_2.weight": _one(Part.MLP_NORM),
    "ln_2.bias": _one(Part.MLP_NORM_BIAS),
    "mlp.c_fc.weight": _one(Part.UP, transposed=True),
    "mlp.c_fc.bias": _one(Part.UP_BIAS),
    "mlp.c_proj.weight": _one(Part.DOWN, transposed=True),
    "mlp.c_proj.bias": _one(Part.DOWN_BIAS),
}
_NEOX = {
    "gpt_neox.embed_in.weight": _one(Part.EMBEDDING),
    "gpt_neox.final_layer_norm.weight": _one(Part.FINAL_NORM),
    "gpt_neox.final_layer_norm.bias": _one(Part.FINAL_NORM_BIAS),
    "embed_out.weight": _one(Part.HEAD),
    "lm_head.weight": _one(Part.HEAD),  # its name in transformers 5, and in its outlines
}
_NEOX_LAYER = {
    "input_layernorm.weight": _one(Part.ATTENTION_NORM),
    "input_layernorm.bias": _one(Part.ATTENTION_NORM_BIAS),
    "attention.query_key_value.weight": Stored(parts=_QKV, interleaved=True),
    "attention.dense.weight": _one(Part.O),
    "attention.query_key_value.bias": Stored(
        parts=_QKV_BIAS, interleaved=True, present="all or none"
    ),
    "attention.dense.bias": _one(Part.O_BIAS, present="all or none"),
    "attention.bias": _one(Part.CONSTANT, present="all or none"),
    "attention.masked_bias": _one(Part.CONSTANT, present="all or none"),
    "attention.rotary_emb.inv_freq": _one(Part.CONSTANT, present="all or none"),
    "post_attention_layernorm.weight": _one(Part.MLP_NORM),
    "post_attention_layernorm.bias": _one(Part.MLP_NORM_BIAS),
    "mlp.dense_h_to_4h.weight": _one(Part.UP),
    "mlp.dense_h_to_4h.bias": _one(Part.UP_BIAS),
    "mlp.dense_4h_to_h.weight": _one(Part.DOWN),
    "mlp.dense_4h_to_h.bias": _one(Part.DOWN_BIAS),
}
_MIXTRAL_LAYER = {
    **_PRE_NORMS,
    **_ATTENTION,
    "block_sparse_moe.gate.weight": _one(Part.ROUTER),
    "block_sparse_moe.experts.*.w1.weight": _one(Part.EXPERT_GATE),
    "block_sparse_moe.experts.*.w2.weight": _one(Part.EXPERT_DOWN),
    "block_sparse_moe.experts.*.w3.weight": _one(Part.EXPERT_UP),
}
_QWEN3_MOE_LAYER = {
    **_PRE_NORMS,
    **_ATTENTION,
    **_ATTENTION_BIASES,
    **_QK_NORMS,
    **{name: replace(tensor, present="dense") for name, tensor in _MLP.items()},
    "mlp.gate.weight": _one(Part.ROUTER, present="sparse"),
    "mlp.experts.*.gate_proj.weight": _one(Part.EXPERT_GATE, present="sparse"),
    "mlp.experts.*.up_proj.weight": _one(Part.EXPERT_UP, present="sparse"),
    "mlp.experts.*.down_proj.weight": _one(Part.EXPERT_DOWN, present="sparse"),
}
_EXPERTS = ("num_local_experts", "num_experts")
_EXPERTS_UNMATCHED = "the experts of two mixtures cannot be matched with each other yet"


def _llama_like(*layer: Mapping[str, Stored]) -> dict[str, Stored]:
    together = {name: tensor for group in layer for name, tensor in group.items()}
    return {**_ENDS, **_layers("model.layers", together)}


_FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        stored=_llama_like(_PRE_NORMS, _ATTENTION, _ATTENTION_BIASES, _MLP, _may(_MLP_BIASES))
    ),
    "mistral": Family(stored=_llama_like(_PRE_NORMS, _ATTENTION, _MLP)),
    "qwen2": Family(stored=_llama_like(_PRE_NORMS, _ATTENTION, _QKV_BIASES, _MLP)),
    "qwen3": Family(
        stored=_llama_like(_PRE_NORMS, _ATTENTION, _ATTENTION_BIASES, _QK_NORMS, _MLP),
        qk_norm="head",
    ),
    "phi3": Family(stored=_llama_like(_PHI3_LAYER), rotary_share=1.0),
    "gemma2": Family(
        stored=_llama_like(_SANDWICH_NORMS, _ATTENTION, _ATTENTION_BIASES, _MLP),
        gain_offset=1.0,
        scaled_embedding=True,
        tied=True,
        query_scalar="query_pre_attn_scalar",
    ),
    "gemma3_text": Family(
        stored=_llama_like(_SANDWICH_NORMS, _ATTENTION, _ATTENTION_BIASES, _QK_NORMS, _MLP),
        gain_offset=1.0,
        scaled_embedding=True,
        qk_norm="head",
        tied=True,
        rope_theta=1_000_000.0,
        local_rope_theta=10_000.0,
        query_scalar="query_pre_attn_scalar",
    ),
    "olmo2": Family(
        stored=_llama_like(_POST_NORMS, _ATTENTION, _ATTENTION_BIASES, _QK_NORMS, _MLP),
        qk_norm="all",
    ),
    "gpt2": Family(
        stored={**_GPT2, **_layers("transformer.h", _GPT2_LAYER)},
        norm="layer",
        gated=False,
        positions="learned",
        tied=True,
        optional_prefix="transformer.",
    ),
    "gpt_neox": Family(
        stored={**_NEOX, **_layers("gpt_neox.layers", _NEOX_LAYER)},
        norm="layer",
        gated=False,
        parallel=True,
        rotary_share=0.25,
    ),
    "mixtral": Family(
        stored=_llama_like(_MIXTRAL_LAYER),
        same_frame_only=_EXPERTS_UNMATCHED,
        rope_theta=1_000_000.0,
    ),
    "qwen3_moe": Family(
        stored=_llama_like(_QWEN3_MOE_LAYER),
        qk_norm="head",
        same_frame_only=_EXPERTS_UNMATCHED,
    ),
}


HEADS = ("lm_head.weight", "embed_out.weight")
"""Suffixes of the names of LM heads."""
EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "wte.weight", "word_embeddings.weight")
"""Suffixes of the names of token embeddings."""
UNTIED_BY_DEFAULT = frozenset({n for n, f in _FAMILIES.items() if not f.tied} | {"phi"})
"""Model types that transformers 5 does not tie if config.json has no tie_word_embeddings."""
OFFSET_GAINS = frozenset(
    {n for n, f in _FAMILIES.items() if f.gain_offset} | {"gemma", "gemma3", "qwen3_next"}
)
"""Model types that store the gains of their norms minus 1."""


def family_of(config: Mapping[str, Any]) -> Family:
    """Return a model's architecture: its table, completed from its configuration.

    Args:
        config: The parsed ``config.json``.

    Raises:
        ValueError: If the architecture is not supported (the message lists those that are), or
            the configuration has an entry that no table describes.
    """
    model_type = str(config.get("model_type"))
    if config.get("text_config"):
        raise ValueError(
            f"a {brief(model_type)} model nests its language model under text_config: save that "
            "part alone (in transformers, the text model with its head and its own config.json), "
            "and merge the result"
        )
    if model_type not in _FAMILIES:
        raise ValueError(
            f"the roles of tensors are known for model_type {sorted(_FAMILIES)}, got "
            f"{shown(model_type)}; to support another architecture, add its table to "
            "seme/architecture/families.py"
        )
    if (
        config.get("scale_attn_by_inverse_layer_idx")
        or config.get("scale_attn_weights") is False
    ):
        raise ValueError(
            f"config.json of a {model_type} model must have scale_attn_weights: true and scale_"
            "attn_by_inverse_layer_idx: false: attention is scaled by the head's dimension"
        )
    family = _FAMILIES[model_type]
    mixture = any(pattern.count("*") > 1 for pattern in family.stored)
    return replace(
        family,
        model_type=model_type,
        n_layers=count(config, "num_hidden_layers", "n_layer"),
        n_experts=count(config, *_EXPERTS) if mixture else 0,
        tied=config.get("tie_word_embeddings", family.tied),
        parallel=config.get("use_parallel_residual", family.parallel),
    )


def setting(config: Mapping[str, Any], *names: str) -> Any:  # noqa: ANN401  (JSON)
    """Return the first of several alternative config entries that is present and not null.

    Raises:
        ValueError: If none is.
    """
    for name in names:
        if config.get(name) is not None:
            return config[name]
    raise ValueError(
        f"config.json of a {config.get('model_type')} model must say {' or '.join(names)}, got "
        f"only {shown(sorted(config))}"
    )


def count(config: Mapping[str, Any], *names: str) -> int:
    """Return a :func:`setting` that is a count.

    Raises:
        ValueError: If it is missing or not an integer of at least 1.
    """
    number = setting(config, *names)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(
            f"config.json of a {config.get('model_type')} model must give an integer of at "
            f"least 1 for {' or '.join(names)}, got {shown(number)}"
        )
    return number
