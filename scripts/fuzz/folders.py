"""Tiny valid folders that the fuzzer begins with: models, a sharded one, adapters, tokenizers."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seme.architecture.dimensions import Dimensions, canonical_shapes
from seme.architecture.families import family_of
from seme.architecture.parts import Part
from seme.checkpoint.safetensors_file import TensorSpec, lay_out

Files = dict[str, bytes]
"""Names and contents of the files of a folder."""

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 12,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": _LLAMA,
    "gemma3": {
        **_LLAMA,
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 4,
        "rope_scaling": None,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        },
    },
    "mixtral": {
        **_LLAMA,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": 2,
    },
    "gpt_neox": {
        **_LLAMA,
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "num_key_value_heads": None,
        "layer_norm_eps": 1e-5,
        "rope_scaling": None,
        "rotary_pct": 0.5,
    },
}
"""Configurations of the models, by the name of the target."""


def config_of(name: str) -> dict[str, Any]:
    """Return the configuration of a model, without null entries."""
    return {key: value for key, value in CONFIGS[name].items() if value is not None}


def model_files(name: str) -> Files:
    """Return the files of a model: weights, configuration, tokenizer."""
    specs = {
        tensor: TensorSpec(dtype=torch.float16, shape=shape)
        for tensor, shape in _shapes(config_of(name)).items()
    }
    return {
        "config.json": _json(config_of(name)),
        "model.safetensors": _safetensors(specs),
        **tokenizer_files("bpe"),
    }


def sharded_files() -> Files:
    """Return the files of a model in two shards with an index."""
    files = model_files("llama")
    del files["model.safetensors"]
    shapes = _shapes(config_of("llama"))
    placed = {name: f"model-{1 + ('layers' in name)}.safetensors" for name in shapes}
    for shard in sorted(set(placed.values())):
        specs = {
            name: TensorSpec(dtype=torch.float32, shape=shapes[name])
            for name, place in placed.items()
            if place == shard
        }
        files[shard] = _safetensors(specs)
    files["model.safetensors.index.json"] = _json({"metadata": {}, "weight_map": placed})
    return files


def adapter_files(base: Path) -> Files:
    """Return the files of a LoRA adapter of the Llama in a folder."""
    prefix = "base_model.model.model.layers"
    specs = {}
    for layer in range(2):
        for module, (outputs, inputs) in {"q_proj": (8, 8), "v_proj": (4, 8)}.items():
            key = f"{prefix}.{layer}.self_attn.{module}"
            down, up = (2, inputs), (outputs, 2)
            specs[f"{key}.lora_A.weight"] = TensorSpec(dtype=torch.float32, shape=down)
            specs[f"{key}.lora_B.weight"] = TensorSpec(dtype=torch.float32, shape=up)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "revision": None,
        "r": 2,
        "lora_alpha": 4,
        "rank_pattern": {r"layers\.[01]\.self_attn\.(q|v)_proj": 2},
        "alpha_pattern": {"v_proj": 8},
        "use_rslora": False,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    }
    return {
        "adapter_config.json": _json(config),
        "adapter_model.safetensors": _safetensors(specs),
    }


def tokenizer_files(kind: str) -> Files:
    """Return the files of a tokenizer: ``bpe``, ``unigram``, ``vocab`` or ``tiktoken``."""
    tokens = {token: i for i, token in enumerate(["a", "b", "\u0120c", "<0x0A>", "ab"])}
    special = {"id": 5, "content": "<s>", "special": True}
    config = {"added_tokens_decoder": {"5": special}, "tokenizer_class": "PreTrainedTokenizer"}
    if kind == "vocab":
        return {
            "vocab.json": _json(tokens),
            "merges.txt": b"a b\n",
            "tokenizer_config.json": _json(config),
            "special_tokens_map.json": _json({"bos_token": {"content": "a"}, "x": ["b"]}),
            "added_tokens.json": _json({"<x>": 6}),
        }
    if kind == "tiktoken":
        lines = [f"{base64.b64encode(t.encode()).decode()} {i}" for t, i in tokens.items()]
        return {"qwen.tiktoken": "\n".join(lines).encode()}
    model: dict[str, Any] = {"type": "BPE", "vocab": tokens, "merges": [["a", "b"]]}
    if kind == "unigram":
        model = {"type": "Unigram", "vocab": [[token, 0.5] for token in tokens], "unk_id": 0}
    steps = [{"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]
    level = {"type": "ByteLevel"} if kind == "bpe" else {"type": "ByteFallback"}
    tokenizer = {
        "added_tokens": [special, {"id": 6, "content": "<t>", "special": False}],
        "normalizer": {"type": "Sequence", "normalizers": steps if kind == "unigram" else []},
        "pre_tokenizer": None,
        "decoder": level,
        "model": model,
    }
    return {"tokenizer.json": _json(tokenizer), "tokenizer_config.json": _json(config)}


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors that every model of a configuration has."""
    family = family_of(config)
    heads = config["num_attention_heads"]
    sizes = Dimensions(
        n_tokens=config["vocab_size"],
        width=config["hidden_size"],
        n_layers=family.n_layers,
        n_heads=heads,
        n_kv_heads=config.get("num_key_value_heads", heads),
        head_dim=config["head_dim"],
        n_neurons=config["intermediate_size"],
        norm_eps=1e-5,
        attention_scale=0.5,
        rotary_by_layer="",
    )
    parts = canonical_shapes(family, sizes)
    wide, narrow = (sizes.n_neurons, sizes.width), (sizes.width, sizes.n_neurons)
    parts |= {Part.EXPERT_GATE: wide, Part.EXPERT_UP: wide, Part.EXPERT_DOWN: narrow}
    shapes = {}
    first_names = {
        stored.parts: pattern for pattern, stored in reversed([*family.stored.items()])
    }
    for pattern, stored in family.stored.items():
        if stored.present == "always" and first_names[stored.parts] == pattern:
            held = [parts[part] for part in stored.parts]
            shape = (sum(part[0] for part in held), *held[0][1:])
            for layer in range(family.n_layers if "*" in pattern else 1):
                name = pattern.replace("*", str(layer), 1)
                for expert in range(family.n_experts if "*" in name else 1):
                    shapes[name.replace("*", str(expert))] = shape
    return shapes


def _safetensors(specs: Mapping[str, TensorSpec]) -> bytes:
    """Lay out a file whose values are small and finite."""
    prefix, _ = lay_out(Path("unused"), specs)
    size = sum(spec.nbytes for spec in specs.values())
    return prefix + bytes(i * 7 % 59 for i in range(size))


def _json(content: object) -> bytes:
    return json.dumps(content).encode()
