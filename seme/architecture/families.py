"""Architecture facts: one table per supported architecture, and the names of heads and embeddings.

Models of one kind store the same canonical parts under other names, fused, transposed or with
another convention. A table gives the name that transformers writes, with ``*`` for the layer's
number and a second ``*`` for the expert's. To support another architecture, add a line to
``_FAMILIES``: what it does not say is as in Llama. Semantic bases need only the head, so models
of some other architectures have them too: see ``_READOUTS``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from seme.architecture.config_json import count
from seme.architecture.parts import Part, Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What the models of an architecture have in common; defaults are Llama's."""

    stored: Mapping[str, Stored]
    """By tensor name, with ``*`` for the layer's number, then for the expert's."""
    norm: Literal["rms", "layer"] = "rms"
    """LayerNorm subtracts a mean, which only some rotations of the residual stream preserve."""
    gain_offset: float = 0.0
    """What is added to a stored gain before it multiplies: 1 in Gemma."""
    scaled_embedding: bool = False
    """Whether sqrt(width) times the stored embedding enters the residual stream."""
    gated: bool = True
    """Whether the MLP is down(act(gate x) * up x), not down(act(up x))."""
    qk_norm: Literal["none", "head", "all"] = "none"
    """Norms of queries and keys: within every head, or over all heads at once."""
    positions: Literal["rope", "learned"] = "rope"
    parallel: bool = False
    """Whether attention and MLP read the same residual stream (GPT-NeoX; from its config)."""
    same_frame_only: str | None = None
    """Why sources must stand in the pivot's frame already; None where they need not."""
    tied: bool = False
    """Whether the head may be missing, as it is the embedding; from the config if it says so."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies where the config names none."""
    local_rope_theta: float | None = None
    """Base in layers of sliding attention, where it differs (Gemma 3)."""
    rotary_share: float | None = None
    """Share of a head that is rotated where the config names none; None: always all of it."""
    query_scalar: str | None = None
    """Config key whose inverse root scales attention; None: the head's dimension."""
    optional_prefix: str = ""
    """Beginning of the names that some checkpoints leave out."""
    model_type: str = ""
    """From the config, as are the next two."""
    n_layers: int = 0
    n_experts: int = 0


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
_EXPERTS_UNMATCHED = "the experts of two mixtures cannot be matched with each other yet"


def _llama_like(*layer: Mapping[str, Stored]) -> dict[str, Stored]:
    together = {name: tensor for some in layer for name, tensor in some.items()}
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
"""Endings of the names of LM heads."""
EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "wte.weight", "word_embeddings.weight")
"""Endings of the names of token embeddings."""
UNTIED_BY_DEFAULT = frozenset({n for n, f in _FAMILIES.items() if not f.tied} | {"phi"})
"""Model types whose head is not the embedding where config.json does not say (transformers 5)."""
_READOUTS = (
    ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"),
    ("lm_head.weight", "model.embed_tokens.weight", "model.final_layernorm.weight"),
    ("lm_head.weight", "transformer.wte.weight", "transformer.ln_f.weight"),
    ("lm_head.weight", "wte.weight", "ln_f.weight"),
    ("embed_out.weight", "gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm.weight"),
)
"""Names of LM head, embedding and final norm."""
_OFFSET_GAINS = frozenset(
    {n for n, f in _FAMILIES.items() if f.gain_offset} | {"gemma", "gemma3", "qwen3_next"}
)
"""Model types that store the gains of their norms less 1."""


def family_of(config: Mapping[str, Any]) -> Family:
    """Find the table of a model's architecture, with what its configuration says about it.

    Args:
        config: The parsed ``config.json``.

    Raises:
        ValueError: If the architecture is not supported, or the configuration asks for what no
            table describes; the message lists the supported ``model_type``s, sorted.
    """
    model_type = str(config.get("model_type"))
    if config.get("text_config"):
        raise ValueError(
            f"a {model_type} model nests its language model under text_config: save that part "
            "alone (in transformers, the text model with its head and its own config.json), and "
            "merge the result"
        )
    if model_type not in _FAMILIES:
        raise ValueError(
            f"the roles of tensors are known for model_type {sorted(_FAMILIES)}, got "
            f"{model_type!r}; to support another architecture, add its table to seme/architecture/families.py"
        )
    if (
        config.get("scale_attn_by_inverse_layer_idx")
        or config.get("scale_attn_weights") is False
    ):
        raise ValueError(
            f"a {model_type} model must scale attention by its heads' dimension, in all layers "
            "alike: scale_attn_weights: true and scale_attn_by_inverse_layer_idx: false were "
            "expected in config.json; nothing else is supported"
        )
    family = _FAMILIES[model_type]
    mixture = any(pattern.count("*") > 1 for pattern in family.stored)
    experts = ("num_local_experts", "num_experts")
    return replace(
        family,
        model_type=model_type,
        n_layers=count(config, "num_hidden_layers", "n_layer"),
        n_experts=count(config, *experts) if mixture else 0,
        tied=config.get("tie_word_embeddings", family.tied),
        parallel=config.get("use_parallel_residual", family.parallel),
    )


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


def readout_of(config: Mapping[str, Any], names: Sequence[str]) -> Readout:
    """Find the output head and the final norm; any architecture in which they can be found.

    Args:
        config: The model's configuration; ``tie_word_embeddings`` and ``model_type`` are read.
        names: Names of the tensors on disk; a missing head means that it is tied.

    Raises:
        ValueError: If the final norm and the embedding stand under no name known here.
    """
    for head, embedding, norm in _READOUTS:
        if {embedding, norm} <= set(names):
            tied = bool(config.get("tie_word_embeddings")) or head not in names
            offset = 1.0 if config.get("model_type") in _OFFSET_GAINS else 0.0
            name = embedding if tied else head
            return Readout(head=name, norm=norm, gain_offset=offset, tied=tied)
    pairs = [(embedding, norm) for _, embedding, norm in _READOUTS]
    raise ValueError(
        f"semantic bases need the output head behind the final norm: one of {pairs} was expected "
        f"in the checkpoint (model_type {config.get('model_type')!r}), which begins with "
        f"{sorted(names)[:3]}; add its names to seme/architecture/families.py"
    )
