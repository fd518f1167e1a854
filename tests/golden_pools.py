"""Small pools of Llamas whose weights no library and no processor changes.

They are made of PCG64's raw words by arithmetic without rounding. Another frame takes products
that round, to float64; the result is rounded to multiples of 2 ** -16, which hides it.
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from scripts.disguise import turned
from seme.architecture.parts import Part

_HEADS, _KV_HEADS, _HEAD_DIM, _NEURONS = 4, 2, 4, 24
_WIDTH = _HEADS * _HEAD_DIM
_SHAPES = {
    "input_layernorm": (_WIDTH,),
    "self_attn.q_proj": (_WIDTH, _WIDTH),
    "self_attn.k_proj": (_KV_HEADS * _HEAD_DIM, _WIDTH),
    "self_attn.v_proj": (_KV_HEADS * _HEAD_DIM, _WIDTH),
    "self_attn.o_proj": (_WIDTH, _WIDTH),
    "post_attention_layernorm": (_WIDTH,),
    "mlp.gate_proj": (_NEURONS, _WIDTH),
    "mlp.up_proj": (_NEURONS, _WIDTH),
    "mlp.down_proj": (_WIDTH, _NEURONS),
}
_PARTS = {
    "embed_tokens": Part.EMBEDDING,
    "lm_head": Part.HEAD,
    "q_proj": Part.Q,
    "k_proj": Part.K,
    "v_proj": Part.V,
    "o_proj": Part.O,
    "gate_proj": Part.GATE,
    "up_proj": Part.UP,
    "down_proj": Part.DOWN,
}
_GAINS = {
    "q_proj": "input_layernorm",
    "k_proj": "input_layernorm",
    "v_proj": "input_layernorm",
    "gate_proj": "post_attention_layernorm",
    "up_proj": "post_attention_layernorm",
}
"""Readers to the norm in front of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A base and fine-tunes of it, all Llamas of two attention heads per key-value head."""

    dtype: torch.dtype
    tied: bool
    n_sources: int
    vocab_size: int = 96
    n_layers: int = 1
    turned: bool = False
    """The last source has another frame, other inner bases, and its units in another order."""


_LARGE = 8200
"""Rows whose tensor is cut into two blocks of 2 ** 17 numbers."""
POOLS: Mapping[str, Pool] = {
    "bfloat16": Pool(dtype=torch.bfloat16, tied=False, n_sources=3, vocab_size=_LARGE),
    "bfloat16_tied": Pool(dtype=torch.bfloat16, tied=True, n_sources=2),
    "float32": Pool(dtype=torch.float32, tied=False, n_sources=2),
    "float32_tied": Pool(dtype=torch.float32, tied=True, n_sources=3, vocab_size=_LARGE),
    "float16": Pool(dtype=torch.float16, tied=False, n_sources=3),
    "one_source": Pool(dtype=torch.float32, tied=False, n_sources=1),
    "turned": Pool(
        dtype=torch.float32, tied=False, n_sources=2, n_layers=2, vocab_size=160, turned=True
    ),
    "turned_tied": Pool(
        dtype=torch.float32, tied=True, n_sources=1, n_layers=2, vocab_size=160, turned=True
    ),
}


def write_pool(name: str, folder: Path) -> list[Path]:
    """Write the models of a pool, the pivot first."""
    pool = POOLS[name]
    base = dict(_base(name, pool))
    models = [base, *(_fine_tune(base, f"{name}/{k}") for k in range(pool.n_sources))]
    if pool.turned:
        models[-1] = _turn(models[-1], pool.tied)
    tied = [pool.tied] * len(models)
    tied[-1] = pool.tied and not pool.turned
    return [
        _write(pool, model, is_tied, folder / f"{name}_{k}")
        for k, (model, is_tied) in enumerate(zip(models, tied, strict=True))
    ]


def words(name: str, n: int) -> np.ndarray:
    """Draw 64 bits n times; PCG64's own stream, which no version of numpy changes."""
    words: np.ndarray = np.random.PCG64(zlib.crc32(name.encode())).random_raw(n)
    return words


def _noise(name: str, shape: Sequence[int]) -> np.ndarray:
    """Draw multiples of 2 ** -16, bell-shaped with standard deviation 0.58, float64."""
    quarters = words(name, math.prod(shape)).view(np.uint16).reshape(*shape, 4)
    centred: np.ndarray = quarters.sum(axis=-1, dtype=np.int64) - 2 * 65535
    return centred / 65536


def _base(name: str, pool: Pool) -> Iterator[tuple[str, np.ndarray]]:
    """Draw a base, with a negative zero here and there."""
    for key, shape in _shapes(pool).items():
        values = _noise(f"{name}/{key}", shape) / 8
        values = 1 + values if len(shape) == 1 else values
        values.reshape(-1)[5::97] = 1.0 if len(shape) == 1 else -0.0
        yield key, values


def _shapes(pool: Pool) -> dict[str, tuple[int, ...]]:
    table = (pool.vocab_size, _WIDTH)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": table}
    for layer in range(pool.n_layers):
        shapes |= {f"model.layers.{layer}.{key}.weight": s for key, s in _SHAPES.items()}
    shapes["model.norm.weight"] = (_WIDTH,)
    return shapes if pool.tied else {**shapes, "lm_head.weight": table}


def _fine_tune(base: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Add a task vector; a quarter of its elements, and the base's zeros, stay."""
    model = {}
    for key, values in base.items():
        tv = _noise(f"{name}/{key}", values.shape) / 64
        tv[_noise(f"{name}/{key}/kept", values.shape) < -0.4] = 0.0
        tv.reshape(-1)[5::97] = 0.0
        model[key] = np.where(tv == 0.0, values, values + tv)
    return model


def _turn(model: Mapping[str, np.ndarray], tied: bool) -> dict[str, np.ndarray]:
    """Write a model in another frame, with other units and inner bases: the same function.

    Norms are folded, so a tied head becomes one of its own.
    """
    plain = dict(model)
    if tied:
        plain["lm_head.weight"] = plain["model.embed_tokens.weight"]
    frame, inner = _orthogonal("frame", _WIDTH), _orthogonal("inner", _HEAD_DIM)
    written = {}
    for key, values in plain.items():
        layer, _, stem = key.removesuffix(".weight").rpartition(".")
        part = _PARTS.get(stem)
        if part is None:
            written[key] = np.ones_like(values)
            continue
        moved = _moved(part, values * _gain(plain, layer, stem), inner)
        in_frame = turned(part, torch.from_numpy(moved), torch.from_numpy(frame)).numpy()
        written[key] = np.round(in_frame * 65536) / 65536
    return written


def _gain(plain: Mapping[str, np.ndarray], layer: str, stem: str) -> np.ndarray | float:
    """The gain of the norm in front of a matrix; 1 where there is none."""
    if stem == "lm_head":
        return plain["model.norm.weight"]
    norm = _GAINS.get(stem)
    return 1.0 if norm is None else plain[f"{layer.rpartition('.')[0]}.{norm}.weight"]


def _moved(part: Part, values: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Reverse attention heads and neurons, turn the values' inner basis, flip neurons."""
    if part in (Part.O, Part.DOWN):
        mirror = {Part.O: Part.V, Part.DOWN: Part.UP}[part]
        return _moved(mirror, values.T, inner).T
    if part in (Part.Q, Part.K, Part.V):
        heads = values.reshape(-1, _HEAD_DIM, values.shape[1])[::-1]
        heads = np.matmul(inner, heads) if part is Part.V else heads
        return heads.reshape(values.shape)
    if part in (Part.GATE, Part.UP):
        sign = np.where(np.arange(_NEURONS) % 3 == 0, -1.0, 1.0)[:, None]
        return values[::-1] * (sign if part is Part.UP else 1.0)
    return values


def _orthogonal(name: str, n: int) -> np.ndarray:
    """Multiply the reflections at three drawn vectors, float64, (n, n)."""
    product = np.eye(n)
    for k in range(3):
        axis = _noise(f"{name}/{k}", (n,))
        product = product - np.outer(product @ axis, 2 * axis / (axis @ axis))
    return product


def _write(pool: Pool, model: Mapping[str, np.ndarray], tied: bool, folder: Path) -> Path:
    folder.mkdir()
    tensors = {
        key: torch.from_numpy(np.ascontiguousarray(values)).to(pool.dtype)
        for key, values in model.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": _WIDTH,
        "intermediate_size": _NEURONS,
        "num_hidden_layers": pool.n_layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_DIM,
        "vocab_size": pool.vocab_size,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": str(pool.dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
