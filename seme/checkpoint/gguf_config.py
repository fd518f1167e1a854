"""Configuration and tokenizer of GGUF models, read by transformers, in transformers' formats.

transformers takes over the sizes of a model and leaves out some of what it computes with; that
is added here from the metadata, or refused. This module imports transformers, within functions:
merges of models in other formats do without.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seme.architecture.families import HEADS
from seme.checkpoint.gguf_header import AGAIN
from seme.checkpoint.gguf_model import GgufModel
from seme.checkpoint.gguf_rotary import set_rotary
from seme.checkpoint.gguf_tensors import (
    ConvertedTensor,
    check_architecture,
    match_tensors,
)

_REQUIRED = (
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)
_COPIED = {
    "attention.key_length": "head_dim",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""Metadata that transformers leaves out for some architectures, to entries of a configuration."""
_BLOCKS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""Layers of the models whose queries are scaled by the width over the heads (llama.cpp)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """Configuration and tensors that a GGUF model becomes, none of them read."""

    config: Mapping[str, Any]
    """Content of ``config.json``."""
    tensors: Mapping[str, ConvertedTensor]
    """Tensors by their names in transformers."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors once converted."""
        return sum(tensor.spec.nbytes for tensor in self.tensors.values())


def outline_gguf(model: GgufModel) -> Outline:
    """Return what a model becomes in transformers, from its header alone.

    Raises:
        ValueError: If the architecture, or something it computes with, is not supported, or
            metadata and tensors disagree.
    """
    from transformers import (  # noqa: PLC0415 (see the module)
        AutoConfig,
        AutoModelForCausalLM,
    )

    check_architecture(model)
    _check_metadata(model)
    with _naming(model, "configuration"), tempfile.TemporaryDirectory() as folder:
        _write_numbers(model, Path(folder) / "model.gguf")
        config: Any = AutoConfig.from_pretrained(folder, gguf_file="model.gguf")
    config.tie_word_embeddings = "output.weight" not in model.tensors  # of all parts
    _complete(config, model)
    with _naming(model, "configuration"), torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
        if not (config.tie_word_embeddings and name.endswith(HEADS))
    }
    entries = json.loads(config.to_json_string())
    for key in ("_model_name_or_path", "transformers_version"):
        entries.pop(key, None)
    tensors = match_tensors(model, shapes, entries)
    dtypes = {tensor.spec.dtype for tensor in tensors.values()}
    dtype = min(dtypes, key=lambda d: (d.itemsize, str(d)))  # norms may be float32
    stated = {
        "architectures": [type(network).__name__],
        "dtype": str(dtype).removeprefix("torch."),
    }
    return Outline(config={**entries, **stated}, tensors=tensors)


def write_tokenizer(model: GgufModel, folder: Path) -> None:
    """Write the tokenizer and the chat template of a model into a folder.

    Raises:
        ValueError: If the model has no tokenizer that transformers can convert.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 (see the module)

    kind = model.metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise ValueError(f"{model.file} has no tokenizer: take the model in safetensors")
    with _alone(model) as alone, _naming(model, f"tokenizer ({kind})"):
        tokenizer: Any = AutoTokenizer.from_pretrained(alone, gguf_file=model.file.name)
    tokenizer.save_pretrained(folder)


@contextmanager
def _alone(model: GgufModel) -> Iterator[Path]:
    """Link a model into a folder of its own: files beside it do not count."""
    with tempfile.TemporaryDirectory(prefix="seme-gguf-") as folder:
        (Path(folder) / model.file.name).symlink_to(model.file.resolve())
        yield Path(folder)


def _write_numbers(model: GgufModel, path: Path) -> None:
    """Write a GGUF file without tensors and vocabulary: transformers reads those slowly."""
    from gguf import GGUFValueType, GGUFWriter  # noqa: PLC0415 (an extra)

    writer = GGUFWriter(path, model.architecture)
    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.INT64, float: GGUFValueType.FLOAT64}
    embedding = model.tensors.get("token_embd.weight")
    vocabulary = {} if embedding is None else {"vocab_size": embedding.shape[0]}
    sizes = {f"{model.architecture}.{key}": size for key, size in vocabulary.items()}
    for key, value in {**sizes, **model.metadata}.items():
        if type(value) in kinds and key.startswith((f"{model.architecture}.", "tokenizer.")):
            writer.add_key_value(key, value, kinds[type(value)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


@contextmanager
def _naming(model: GgufModel, what: str) -> Iterator[None]:
    """Name the model in an error of transformers."""
    try:
        yield
    except Exception as error:  # whatever its readers raise on odd values
        raise ValueError(
            f"transformers cannot read the {what} of {model.file} "
            f"({type(error).__name__}: {error}): take the model in safetensors"
        ) from error


def _check_metadata(model: GgufModel) -> None:
    """Refuse a model that lacks an entry, for which transformers would take a default."""
    for key in _REQUIRED:
        name = f"{model.architecture}.{key}"
        value = model.metadata.get(name)
        if not isinstance(value, int | float) or value <= 0:
            raise ValueError(
                f"{model.file} has {name} = {value!r}, expected one positive number: take the "
                "model in safetensors"
            )
    n_layers = model.metadata[f"{model.architecture}.block_count"]
    if n_layers > len(model.tensors):
        raise ValueError(
            f"{model.file} has {model.architecture}.block_count = {n_layers}, and "
            f"{len(model.tensors)} tensors in all; {AGAIN}"
        )


def _complete(config: Any, model: GgufModel) -> None:  # noqa: ANN401 (of any architecture)
    """Add to a configuration what transformers leaves out."""
    architecture = model.architecture
    for key, entry in _COPIED.items():
        value = model.metadata.get(f"{architecture}.{key}")
        if value is not None and hasattr(config, entry):
            setattr(config, entry, value)
    if architecture in _BLOCKS_OF_27B:
        per_head = config.hidden_size // config.num_attention_heads
        is_27b = config.num_hidden_layers == _BLOCKS_OF_27B[architecture]
        config.query_pre_attn_scalar = per_head if is_27b else config.head_dim
    set_rotary(config, model)
