"""Hub caches of config, index and a few tokens for the models of ``conf/models``, no weights.

Shapes of published models, by architecture. Read in a copy of config.json, a model card or an
issue: Llama 3.1 8B, Llama 3.2 3B, Gemma 2, SmolLM2 135M, Pythia's width, depth and heads, the
rows of MergeBench's math experts and of WizardMath. All others are from memory.
"""

import json
from collections.abc import Mapping
from hashlib import sha1
from pathlib import Path
from typing import Any

_PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_NORMS = ("input_layernorm", "post_attention_layernorm")
_GEMMA_NORMS = (*_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
_NEOX = (
    *(f"{norm}.{kind}" for norm in _NORMS for kind in ("weight", "bias")),
    *(f"attention.query_key_value.{kind}" for kind in ("weight", "bias")),
    *(f"attention.dense.{kind}" for kind in ("weight", "bias")),
    *(f"mlp.dense_h_to_4h.{kind}" for kind in ("weight", "bias")),
    *(f"mlp.dense_4h_to_h.{kind}" for kind in ("weight", "bias")),
)
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
}
_LLAMA3_SCALING = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def _sizes(
    model_type: str,
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    neurons: int,
    rows: int,
    *,
    tied: bool = False,
    **more: Any,
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "architectures": [_CLASSES[model_type]],
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": neurons,
        "vocab_size": rows,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        **more,
    }


def _pythia(width: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = _sizes("gpt_neox", width, layers, heads, heads, 4 * width, 50304)
    del sizes["num_key_value_heads"]
    return {**sizes, "torch_dtype": "float16", "rotary_pct": 0.25}


_LLAMA_3 = {"rope_theta": 500_000.0, "rope_scaling": _LLAMA3_SCALING}
_LLAMA_3_1 = {"rope_theta": 500_000.0, "rope_scaling": {**_LLAMA3_SCALING, "factor": 8.0}}
_QWEN = {"rope_theta": 1_000_000.0}
_GEMMA = {"head_dim": 256, "tied": True, "hidden_activation": "gelu_pytorch_tanh"}
_SMOL = {"rope_theta": 100_000.0, "tied": True}
ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "Llama-3.2-1B": _sizes("llama", 2048, 16, 32, 8, 8192, 128256, tied=True, **_LLAMA_3),
    "Llama-3.2-3B": _sizes("llama", 3072, 28, 24, 8, 8192, 128256, tied=True, **_LLAMA_3),
    "Llama-3.1-8B": _sizes("llama", 4096, 32, 32, 8, 14336, 128256, **_LLAMA_3_1),
    "Llama-2-7b": _sizes("llama", 4096, 32, 32, 32, 11008, 32000, torch_dtype="float16"),
    "Llama-2-13b": _sizes("llama", 5120, 40, 40, 40, 13824, 32000, torch_dtype="float16"),
    "Mistral-7B": _sizes("mistral", 4096, 32, 32, 8, 14336, 32000),
    "gemma-2-2b": _sizes(
        "gemma2", 2304, 26, 8, 4, 9216, 256000, query_pre_attn_scalar=256, **_GEMMA
    ),
    "gemma-2-9b": _sizes(
        "gemma2", 3584, 42, 16, 8, 14336, 256000, query_pre_attn_scalar=256, **_GEMMA
    ),
    "Qwen2.5-0.5B": _sizes("qwen2", 896, 24, 14, 2, 4864, 151936, tied=True, **_QWEN),
    "Qwen2.5-1.5B": _sizes("qwen2", 1536, 28, 12, 2, 8960, 151936, tied=True, **_QWEN),
    "Qwen2.5-3B": _sizes("qwen2", 2048, 36, 16, 2, 11008, 151936, tied=True, **_QWEN),
    "Qwen2.5-7B": _sizes("qwen2", 3584, 28, 28, 4, 18944, 152064, **_QWEN),
    "Qwen2.5-32B": _sizes("qwen2", 5120, 64, 40, 8, 27648, 152064, **_QWEN),
    "Qwen3-4B": _sizes(
        "qwen3", 2560, 36, 32, 8, 9728, 151936, tied=True, head_dim=128, **_QWEN
    ),
    "Qwen3-8B": _sizes("qwen3", 4096, 36, 32, 8, 12288, 151936, head_dim=128, **_QWEN),
    "SmolLM2-135M": _sizes("llama", 576, 30, 9, 3, 1536, 49152, **_SMOL),
    "SmolLM2-360M": _sizes("llama", 960, 32, 15, 5, 2560, 49152, **_SMOL),
    "SmolLM2-1.7B": _sizes(
        "llama", 2048, 24, 32, 32, 8192, 49152, tied=True, rope_theta=130_000.0
    ),
    "pythia-70m": _pythia(512, 6, 8),
    "pythia-160m": _pythia(768, 12, 12),
    "pythia-410m": _pythia(1024, 24, 16),
    "pythia-1b": _pythia(2048, 16, 8),
    "pythia-1.4b": _pythia(2048, 24, 16),
}
_BEGINNINGS = {
    "meta-llama/Llama-2-7b": "Llama-2-7b",
    "meta-llama/Llama-2-13b": "Llama-2-13b",
    "WizardLM": "Llama-2-13b",
    "WizardLMTeam/WizardMath-7B": "Llama-2-7b",
    "layoric/llama-2-13b": "Llama-2-13b",
    "lmsys/vicuna-7b": "Llama-2-7b",
    "epfl-llm/meditron-7b": "Llama-2-7b",
    "mistralai/Mistral-7B": "Mistral-7B",
    "meta-math/MetaMath-Mistral-7B": "Mistral-7B",
    "cognitivecomputations/dolphin-2.1-mistral-7b": "Mistral-7B",
    "uukuguy/speechless-code-mistral-7b": "Mistral-7B",
    "openchat/openchat_3.5": "Mistral-7B",
    "FuseAI/OpenChat-3.5-7B": "Mistral-7B",
    "Qwen/Qwen2.5-Math-1.5B": "Qwen2.5-1.5B",
    "Qwen/Qwen2.5-Coder-1.5B": "Qwen2.5-1.5B",
    "Qwen/Qwen2.5-Math-7B": "Qwen2.5-7B",
    "Qwen/Qwen2.5-Coder-7B": "Qwen2.5-7B",
    "Qwen/QwQ-32B": "Qwen2.5-32B",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": "Qwen2.5-32B",
    "NovaSky-AI/Sky-T1-32B": "Qwen2.5-32B",
}
"""Beginnings of Hub ids to architectures, where the id's own name does not begin with one."""
_ROWS = {
    "MergeBench/Llama-3.2-3B_math": 128320,
    "MergeBench/Llama-3.2-3B-Instruct_math": 128320,
    "MergeBench/Llama-3.1-8B_math": 128320,
    "MergeBench/Llama-3.1-8B-Instruct_math": 128320,
    "WizardLMTeam/WizardMath-7B-V1.0": 32001,
    "WizardLM/WizardMath-13B-V1.0": 32001,
    "epfl-llm/meditron-7b": 32017,
    "meta-math/MetaMath-Mistral-7B": 32001,
    "cognitivecomputations/dolphin-2.1-mistral-7b": 32002,
    "openchat/openchat_3.5": 32002,
    "FuseAI/OpenChat-3.5-7B": 32002,
}
"""Beginnings of Hub ids to embedding rows, where they differ from the architecture's."""
_RMS_NORM_EPS = {"llama": 1e-5, "mistral": 1e-5, "qwen2": 1e-6, "qwen3": 1e-6}
_ROPE_THETA = {"Qwen/Qwen2.5-Math": 10_000.0}
_SINGLE_FILE_PARAMETERS = 2_000_000_000
"""Smaller models are one file on the Hub, and have no index."""


def config_of(hub_id: str) -> dict[str, Any]:
    """Return the parsed config.json of a published model, its shapes at least."""
    config = dict(ARCHITECTURES[_architecture_of(hub_id)])
    if config["model_type"] in _RMS_NORM_EPS:
        config |= {"rms_norm_eps": _RMS_NORM_EPS[config["model_type"]], "hidden_act": "silu"}
    if (rows := _longest(_ROWS, hub_id)) is not None:
        config["vocab_size"] = rows
    if (theta := _longest(_ROPE_THETA, hub_id)) is not None:
        config["rope_theta"] = theta
    return config


def write_snapshot(cache: Path, hub_id: str, **changes: Any) -> Path:
    """Write config, index and tokenizer of a model as the Hub's cache has them, no weights.

    Args:
        cache: The folder of the cache, ``hub`` in HF_HOME.
        hub_id: One that :func:`config_of` knows.
        changes: Entries of config.json to set.

    Returns:
        The snapshot's folder.
    """
    commit = sha1(hub_id.encode(), usedforsecurity=False).hexdigest()
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    config = {**config_of(hub_id), **changes}
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "tokenizer.json").write_text(json.dumps(_tokenizer(config["vocab_size"])))
    names = _names(config)
    if _n_parameters(config) > _SINGLE_FILE_PARAMETERS:
        placed = {
            name: f"model-{i % 4 + 1:05}-of-00004.safetensors" for i, name in enumerate(names)
        }
        index = json.dumps({"metadata": {}, "weight_map": placed})
        (snapshot / "model.safetensors.index.json").write_text(index)
    return snapshot


def _architecture_of(hub_id: str) -> str:
    if (found := _longest(_BEGINNINGS, hub_id)) is not None:
        return str(found)
    own_name = hub_id.partition("/")[2]
    return max((name for name in ARCHITECTURES if own_name.startswith(name)), key=len)


def _longest(table: Mapping[str, Any], hub_id: str) -> Any:
    """Look up the longest beginning of an id; None if no key is one."""
    beginnings = [key for key in table if hub_id.startswith(key)]
    return table[max(beginnings, key=len)] if beginnings else None


def _names(config: Mapping[str, Any]) -> list[str]:
    """List the tensors that an index names."""
    layers = range(config["num_hidden_layers"])
    if config["model_type"] == "gpt_neox":
        ends = ("embed_in.weight", "final_layer_norm.weight", "final_layer_norm.bias")
        inner = [f"layers.{layer}.{name}" for layer in layers for name in _NEOX]
        return [*(f"gpt_neox.{name}" for name in (*ends, *inner)), "embed_out.weight"]
    norms = _GEMMA_NORMS if config["model_type"] == "gemma2" else _NORMS
    kinds = [f"{part}.weight" for part in (*_PARTS, *_MLP, *norms)]
    if config["model_type"] == "qwen2":
        kinds += [f"{part}.bias" for part in _PARTS[:3]]
    if config["model_type"] == "qwen3":
        kinds += ["self_attn.q_norm.weight", "self_attn.k_norm.weight"]
    head = [] if config["tie_word_embeddings"] else ["lm_head.weight"]
    inner = [f"model.layers.{layer}.{kind}" for layer in layers for kind in kinds]
    return ["model.embed_tokens.weight", "model.norm.weight", *inner, *head]


def _n_parameters(config: Mapping[str, Any]) -> int:
    """Estimate the parameters: embeddings, and in each layer the MLP and half as much again."""
    width, neurons = config["hidden_size"], config["intermediate_size"]
    layer = 3 * width * neurons * 3 // 2
    return int(config["vocab_size"] * width + config["num_hidden_layers"] * layer)


def _tokenizer(n_rows: int) -> dict[str, Any]:
    """Return a tokenizer.json of two common tokens and one for the last row."""
    vocabulary = {"a": 0, "b": 1, f"<row {n_rows - 1}>": n_rows - 1}
    return {"model": {"type": "WordLevel", "vocab": vocabulary}, "added_tokens": []}
