"""Tiny GGUF files of random models, and damaged ones."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    get_tensor_name_map,
    quants,
)
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.tiny_models import tiny_model

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2",
                 "gemma3_text": "gemma3"}  # fmt: skip
"""Model types of transformers to architectures of llama.cpp."""
BYTES = list(bytes_to_unicode().values())
TOKENS = ["<pad>", "<s>", "</s>", *BYTES, "he", "Ġhe", "ll"]
MERGES = ["h e", "Ġ he", "l l"]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
_SIZES = {
    "llama": {"attention_bias": False, "mlp_bias": False},
    "qwen2": {},
    "qwen3": {"attention_bias": False},
    "gemma2": {"query_pre_attn_scalar": 12},
    "gemma3_text": {"query_pre_attn_scalar": 12, "num_hidden_layers": 6, "layer_types": None},
}
_RAW_SCALES = {"Q4_K": (0, 2), "Q6_K": (208,)}
"""Places of the half-precision scales in a block of types that gguf cannot quantise to."""


def gguf_model(model_type: str = "llama", **overrides: Any) -> PreTrainedModel:
    """Build a tiny random model whose settings a GGUF file can express."""
    common = {"vocab_size": len(TOKENS), "intermediate_size": 64, "tie_word_embeddings": True}
    return tiny_model(model_type, **{**common, **_SIZES[model_type], **overrides})


def write_gguf(
    path: Path,
    model: PreTrainedModel | None = None,
    *,
    kind: str = "F32",
    n_parts: int = 1,
    more: Mapping[str, Any] | None = None,
    extra: Mapping[str, np.ndarray[Any, Any]] | None = None,
    tensors: bool = True,
) -> Path:
    """Write a model as llama.cpp does.

    Args:
        path: The file; parts are named after it.
        model: A model of an architecture above; None for a tiny Llama.
        kind: Type of the matrices; norms are F32.
        n_parts: Files that the model is split into.
        more: Further metadata; an entry replaces the model's own, None leaves it out.
        extra: Further tensors, F32.
        tensors: Write the model's tensors.

    Returns:
        The file, or its first part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    model = gguf_model() if model is None else model
    more, stored = dict(more or {}), stored_tensors(model) if tensors else {}
    architecture = more.pop("general.architecture", ARCHITECTURES[model.config.model_type])
    per_part = -(-len(stored) // n_parts)
    writer = GGUFWriter(path, architecture, split_max_tensors=per_part if n_parts > 1 else 0)
    entries = {"tokenizer.ggml.model": "gpt2", **metadata(model), **more}
    for key, value in entries.items():
        add(writer, key, value)
    add_tokenizer(writer)
    for name, values in stored.items():
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            packed = pack(values, kind)
            writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType[kind])
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if n_parts == 1 else path.with_name(f"{path.stem}-00001-of-{n_parts:05d}.gguf")


def metadata(model: PreTrainedModel) -> dict[str, Any]:
    """Metadata of a model, as llama.cpp writes it."""
    config: Any = model.config
    prefix = ARCHITECTURES[config.model_type]
    rotary = config.rope_parameters.get("full_attention", config.rope_parameters)
    head_dim = model.state_dict()["model.layers.0.self_attn.q_proj.weight"].shape[0]
    head_dim //= config.num_attention_heads
    entries = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": rotary["rope_theta"],
        "rope.dimension_count": head_dim,
    }
    if "gemma" in prefix:
        entries["attention.sliding_window"] = config.sliding_window
    return {f"{prefix}.{key}": value for key, value in entries.items()}


def add(writer: GGUFWriter, key: str, value: Any) -> None:
    """Add one entry of metadata of the type that llama.cpp gives it."""
    if value is None:
        return
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def add_tokenizer(writer: GGUFWriter) -> None:
    """Add a byte-level tokenizer with three merges, and a chat template."""
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_token_merges(MERGES)
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)


def stored_tensors(model: PreTrainedModel) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors of a model as llama.cpp stores them, float32."""
    config: Any = model.config
    architecture = ARCHITECTURES[config.model_type]
    (number,) = [key for key, name in MODEL_ARCH_NAMES.items() if name == architecture]
    names = get_tensor_name_map(number, config.num_hidden_layers)
    stored = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.numpy()
        if architecture == "llama" and ".q_proj." in name:
            values = interleave(values, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            values = interleave(values, config.num_key_value_heads)
        if "gemma" in architecture and name.endswith("norm.weight"):
            values = values + 1
        stored[names.get_name(name, (".weight", ".bias"))] = np.ascontiguousarray(values)
    return stored


def interleave(values: np.ndarray[Any, Any], n_heads: int) -> np.ndarray[Any, Any]:
    """Put the halves of each head's rows next to each other, as llama.cpp does for Llama."""
    halves = values.reshape(n_heads, 2, -1, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def pack(values: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """Quantise a matrix; to types without a quantiser, random blocks of a plain scale."""
    if kind not in _RAW_SCALES:
        return quants.quantize(values, GGMLQuantizationType[kind])
    shape = quants.quant_shape_to_byte_shape(values.shape, GGMLQuantizationType[kind])
    size = quants.GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    packed = np.random.default_rng(0).integers(0, 256, (np.prod(shape) // size, size), np.uint8)
    for place in _RAW_SCALES[kind]:
        packed[:, place : place + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return packed.reshape(shape)


def header(n_tensors: int = 0, entries: bytes = b"", *, version: int = 3, n: int = 1) -> bytes:
    """Bytes of a GGUF file up to its table of tensors."""
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n) + entries


def text(value: str) -> bytes:
    """Bytes of a text in a GGUF file."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def loaded(path: Path, config: PreTrainedConfig | None = None) -> dict[str, torch.Tensor]:
    """Tensors of a GGUF file as transformers itself loads them, float32.

    Args:
        path: The file.
        config: Configuration to build the model of; None for the file's, as transformers reads
            it, which for Qwen3 has heads of 128 dimensions whatever the file says.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, config=config
    )
    return dict(model.state_dict())
