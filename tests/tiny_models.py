"""Tiny random models of every supported architecture, saved by transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

_COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_WIDE_HEADS = {"head_dim": 12}
_EVERY_BIAS = {"attention_bias": True}
DENSE: Mapping[str, Mapping[str, Any]] = {
    "llama": {**_COMMON, **_EVERY_BIAS, "mlp_bias": True},
    "mistral": _COMMON,
    "qwen2": _COMMON,
    "qwen3": {**_COMMON, **_WIDE_HEADS, **_EVERY_BIAS},
    "phi3": {**_COMMON, "partial_rotary_factor": 0.5},
    "gemma2": {**_COMMON, **_WIDE_HEADS, "query_pre_attn_scalar": 24},
    "gemma3_text": {
        **_COMMON,
        **_WIDE_HEADS,
        "query_pre_attn_scalar": 24,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "olmo2": {**_COMMON, "num_key_value_heads": 4, **_EVERY_BIAS},
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "vocab_size": 160,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt_neox": {
        **{key: value for key, value in _COMMON.items() if key != "num_key_value_heads"},
        "rotary_pct": 0.5,
    },
}
"""Settings of the dense architectures, with grouped queries and biases where supported."""
MIXTURES: Mapping[str, Mapping[str, Any]] = {
    "mixtral": {**_COMMON, "num_local_experts": 3},
    "qwen3_moe": {
        **_COMMON,
        **_WIDE_HEADS,
        **_EVERY_BIAS,
        "num_experts": 3,
        "moe_intermediate_size": 16,
        "mlp_only_layers": [1],
    },
}


def tiny_model(model_type: str, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """Build a float32 model with every weight, gain and bias random, in evaluation mode."""
    settings = {**DENSE, **MIXTURES}[model_type]
    config = AutoConfig.for_model(model_type, **{**settings, **overrides})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = 0.3 * torch.randn(weight.shape, generator=rng)
            is_gain = weight.dim() == 1 and name.endswith("weight")
            weight.copy_(weight + noise if is_gain else noise)
    return model


def save_tiny(
    folder: Path,
    model_type: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **overrides: Any,
) -> Path:
    """Write :func:`tiny_model` into a folder and return the folder."""
    tiny_model(model_type, seed=seed, **overrides).to(dtype).save_pretrained(folder)
    return folder
