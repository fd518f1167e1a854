"""Random checkpoints of real shapes: a base, and sources that differ from it slightly."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seme.checkpoint.model_folder import INDEX_FILE
from seme.checkpoint.safetensors_file import TensorSpec, lay_out
from seme.checkpoint.writer import index_of, split_into_shards

_BASE_STD = 0.02
_DELTA_STD = 1e-3
_SHARD_BYTES = 400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The dimensions of a decoder of the Llama kind."""

    model_type: str
    architecture: str
    n_tokens: int
    width: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    n_neurons: int
    tied: bool
    biased: bool
    """True if q, k and v have biases."""

    def halved(self) -> "Shape":
        """Return a shape of about half the parameters: half the tokens, half the layers."""
        return replace(self, n_tokens=self.n_tokens // 2, n_layers=self.n_layers // 2)

    def config(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "vocab_size": self.n_tokens,
            "hidden_size": self.width,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "intermediate_size": self.n_neurons,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
        }

    def tensors(self) -> dict[str, TensorSpec]:
        """Return the bfloat16 spec of every tensor on disk, by name."""
        named = {
            "model.embed_tokens.weight": (self.n_tokens, self.width),
            "model.norm.weight": (self.width,),
        }
        if not self.tied:
            named["lm_head.weight"] = (self.n_tokens, self.width)
        for layer in range(self.n_layers):
            named |= {f"model.layers.{layer}.{k}": s for k, s in self._layer().items()}
        return {n: TensorSpec(dtype=torch.bfloat16, shape=shape) for n, shape in named.items()}

    def _layer(self) -> dict[str, tuple[int, ...]]:
        width, n_kv = self.width, self.width // self.n_heads * self.n_kv_heads
        biases = {"q_proj": width, "k_proj": n_kv, "v_proj": n_kv} if self.biased else {}
        return {
            "input_layernorm.weight": (width,),
            "post_attention_layernorm.weight": (width,),
            "self_attn.q_proj.weight": (width, width),
            "self_attn.k_proj.weight": (n_kv, width),
            "self_attn.v_proj.weight": (n_kv, width),
            "self_attn.o_proj.weight": (width, width),
            "mlp.gate_proj.weight": (self.n_neurons, width),
            "mlp.up_proj.weight": (self.n_neurons, width),
            "mlp.down_proj.weight": (width, self.n_neurons),
        } | {f"self_attn.{name}.bias": (size,) for name, size in biases.items()}


SHAPES = {
    "qwen2-0.5b": Shape(
        model_type="qwen2",
        architecture="Qwen2ForCausalLM",
        n_tokens=151_936,
        width=896,
        n_layers=24,
        n_heads=14,
        n_kv_heads=2,
        n_neurons=4864,
        tied=True,
        biased=True,
    ),
    "llama-1.1b": Shape(
        model_type="llama",
        architecture="LlamaForCausalLM",
        n_tokens=32_000,
        width=2048,
        n_layers=22,
        n_heads=32,
        n_kv_heads=4,
        n_neurons=5632,
        tied=False,
        biased=False,
    ),
    "tiny": Shape(
        model_type="llama",
        architecture="LlamaForCausalLM",
        n_tokens=512,
        width=64,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        n_neurons=160,
        tied=False,
        biased=False,
    ),
}


def n_bytes(shape: Shape) -> int:
    """Return the size of one checkpoint's tensors in bytes."""
    return sum(spec.nbytes for spec in shape.tensors().values())


def write_models(
    folder: Path,
    shape: Shape,
    n_sources: int,
    *,
    shard_bytes: int = _SHARD_BYTES,
    seed: int = 0,
) -> tuple[Path, ...]:
    """Write a base and its sources in bfloat16, in shards, without tokenizers.

    The base is normal with standard deviation 0.02, norm gains around 1; a source adds normal
    numbers of standard deviation 0.001, about what a short fine-tuning does. The numbers
    depend on the shape, the seed and the source's index only.

    Args:
        folder: Parent of the folders ``base``, ``source0``, ``source1``, ...
        shape: Dimensions of all of them.
        n_sources: Number of sources.
        shard_bytes: Size above which the tensors are split into several files.
        seed: Seed of the base; bases whose seeds differ by more than ``n_sources`` share no
            numbers.

    Returns:
        The folders, the base's first.
    """
    folders = tuple(
        folder / name for name in ("base", *(f"source{i}" for i in range(n_sources)))
    )
    shards = split_into_shards(shape.tensors(), shard_bytes)
    for model in folders:
        model.mkdir(parents=True)
        (model / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n")
        if len(shards) > 1:
            (model / INDEX_FILE).write_text(json.dumps(index_of(shards)))
    rngs = [torch.Generator().manual_seed(seed + index) for index in range(n_sources + 1)]
    for shard, specs in shards.items():
        _write_shard([model / shard for model in folders], specs, rngs)
    return folders


def _write_shard(
    paths: Sequence[Path], specs: Mapping[str, TensorSpec], rngs: Sequence[torch.Generator]
) -> None:
    """Write one shard of every model, drawing each tensor of the base once."""
    prefix, places = lay_out(paths[0], specs)
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for file in files:
            file.write(prefix)
        for name in sorted(places, key=lambda name: places[name].offset):
            shape = specs[name].shape
            center = 1.0 if name.endswith("norm.weight") else 0.0
            base = _BASE_STD * torch.randn(shape, generator=rngs[0]) + center
            files[0].write(_bytes(base))
            for file, rng in zip(files[1:], rngs[1:], strict=True):
                file.write(_bytes(base + _DELTA_STD * torch.randn(shape, generator=rng)))


def _bytes(values: Tensor) -> memoryview:
    return values.bfloat16().view(torch.uint8).numpy().data.cast("B")
