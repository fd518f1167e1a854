"""Entries of config.json that decide what tensors of a given shape compute, in one form.

transformers 4 and 5 write them under other names and in other places, and leave out different
defaults: they are brought into the form that transformers 5 computes with.
"""

from collections.abc import Mapping
from typing import Any

DECISIVE = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim")
"""Entries that divide tensors of equal shapes into different heads: models with different
values cannot be merged."""
_ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function")
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
_FACTORS = {
    **dict.fromkeys(
        (
            "embedding_multiplier",
            "attention_multiplier",
            "residual_multiplier",
            "logits_scaling",
        ),
        1.0,
    ),
    **dict.fromkeys(
        (
            *("logit_scale", "scale_emb", "scale_depth", "dim_model_base", "embedding_scale"),
            *("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"),
            *("num_experts_per_tok", "norm_topk_prob", "routed_scaling_factor"),
        )
    ),
}
"""Factors and bounds that single architectures apply (Granite, Cohere, MiniCPM, Gemma,
mixtures), with their defaults in transformers where it is one for all."""
_THETAS = {
    **dict.fromkeys(("mixtral", "emu3", "lfm2", "lfm2_moe", "minimax", "phimoe"), 1e6),
    **dict.fromkeys(("bitnet", "cohere", "ernie4_5", "ernie4_5_moe", "flex_olmo"), 5e5),
    **dict.fromkeys(("llama4_text", "mllama"), 5e5),
    **{"helium": 1e5, "smollm3": 2e6, "minimax_m2": 5e6, "longcat_flash": 1e7},
    **dict.fromkeys(("gemma3", "gemma3_text", "gemma3n", "gemma3n_text"), 1e6),
}
"""Base of the rotary frequencies that transformers 5 takes where a configuration has none."""
_SHARES = {
    **dict.fromkeys(("bamba", "glm", "glm4", "glm4_moe", "nemotron", "persimmon", "phi"), 0.5),
    **dict.fromkeys(("gpt_neox", "stablelm", "qwen3_next"), 0.25),
    "recurrent_gemma": 0.5,
}
"""Share of a head that is rotated, likewise; 1 for the others."""
_LOCAL_THETA = dict.fromkeys(("gemma3", "gemma3_text", "gemma3n", "gemma3n_text"), 1e4)
"""Base in layers of sliding attention, where they have one of their own."""
_WITH_LENGTH = ("llama3", "yarn", "longrope")
"""Kinds of scaling that depend on the context length before it."""


def activation(config: Mapping[str, Any]) -> str:
    """Return the name of the MLP's activation; ``the default`` if the config has none."""
    name = next((str(config[key]) for key in _ACTIVATIONS if config.get(key)), "the default")
    return {"swish": "silu"}.get(name, name)


def computed_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config entries that decide what a tensor of a given shape computes.

    Args:
        config: The parsed ``config.json``; only the text part of a model of text and images is
            used.

    Returns:
        Entry to value, None if it is missing; names are the same for transformers 4 and 5.
    """
    text = {**config, **(config.get("text_config") or {})}  # a model of text and images
    heads = text.get("num_attention_heads", text.get("n_head"))
    width = text.get("hidden_size")
    hidden_act = activation(text)
    return {
        "model_type": text.get("model_type"),
        "hidden_act": None if hidden_act == "the default" else hidden_act,
        "num_attention_heads": heads,
        "num_key_value_heads": text.get("num_key_value_heads") or heads,
        "head_dim": text.get("head_dim") or _head_dim(width, heads),
        "norm_eps": _first(text, *_EPSILONS),
        **{name: _first(text, name, default=default) for name, default in _FACTORS.items()},
        **_rope(text),
    }


def _first(entries: Mapping[str, Any], *names: str, default: object = None) -> Any:  # noqa: ANN401
    """Return the first of several entries that is present and not null."""
    return next((entries[n] for n in names if entries.get(n) is not None), default)


def _head_dim(width: object, heads: object) -> int | None:
    if isinstance(width, int) and isinstance(heads, int) and width and heads:
        return width // heads
    return None


def _rope(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary embedding's entries, by type of attention where those differ."""
    given = {**(text.get("rope_scaling") or {}), **(text.get("rope_parameters") or {})}
    nested = {kind: inner for kind, inner in given.items() if isinstance(inner, Mapping)}
    kind = str(text.get("model_type"))
    if kind in _LOCAL_THETA and not nested:
        local = _first(text, "rope_local_base_freq", default=_LOCAL_THETA[kind])
        nested = {"sliding_attention": {"rope_theta": local}, "full_attention": given}
    if not nested:
        return _rotary(text, given, kind)
    common = {key: value for key, value in given.items() if key not in nested}
    return {
        f"{name} of {attention}": value
        for attention, inner in sorted(nested.items())
        for name, value in _rotary(text, {**common, **inner}, kind).items()
    }


def _rotary(text: Mapping[str, Any], given: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Complete the rotary settings of one type of attention by what stands elsewhere."""
    settings = {key: value for key, value in given.items() if value is not None}
    older = settings.pop("type", "default")
    settings.setdefault("rope_type", older)
    theta = _first(text, "rope_theta", "rotary_emb_base", default=_THETAS.get(kind, 10_000.0))
    share = _first(text, "partial_rotary_factor", "rotary_pct", default=_SHARES.get(kind, 1.0))
    settings.setdefault("rope_theta", theta)
    settings.setdefault("partial_rotary_factor", share)
    if settings["rope_type"] == "su":  # its older name
        settings["rope_type"] = "longrope"
    length = "original_max_position_embeddings"
    if settings["rope_type"] in _WITH_LENGTH:
        given_length = _first(text, length, default=settings.get(length))
        settings[length] = given_length or text.get("max_position_embeddings")
    return settings
