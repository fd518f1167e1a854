"""Transformer computed from canonical parts alone, as an oracle."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from seme.architecture.dimensions import Dimensions
from seme.architecture.model import CanonicalModel
from seme.architecture.parts import Family, Part, Place

_ACTIVATIONS = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}
_ACTIVATION_KEYS = ("hidden_activation", "hidden_act", "activation_function")

Parts = Mapping[Place, Tensor]


def parts_of(model: CanonicalModel) -> dict[Place, Tensor]:
    """Read all canonical parts."""
    return {place: model.read(place) for place in model.places}


def logits_of(model: CanonicalModel, tokens: Tensor) -> Tensor:
    """Compute a checkpoint's logits from its canonical parts."""
    config = model.weights.config
    return logits(parts_of(model), model.family, model.dimensions, config, tokens)


def logits(
    parts: Parts, family: Family, sizes: Dimensions, config: Mapping[str, Any], tokens: Tensor
) -> Tensor:
    """Compute logits from canonical parts; tokens (batch, length) -> (batch, length, tokens).

    From the config come only the activation and Gemma 2's soft caps.
    """
    *_, stream = streams(parts, family, sizes, config, tokens)
    own = {place.part: part for place, part in parts.items() if place.layer is None}
    read = _norm(own, Part.FINAL_NORM, family, sizes.norm_eps, stream)
    return _soft_cap(read @ own[Part.HEAD].T, config.get("final_logit_softcapping"))


def streams(
    parts: Parts, family: Family, sizes: Dimensions, config: Mapping[str, Any], tokens: Tensor
) -> Iterator[Tensor]:
    """Compute the residual stream in front of every attention, every MLP and the final norm."""
    stream = parts[Place(Part.EMBEDDING)][tokens]
    if family.positions == "learned":
        stream = stream + parts[Place(Part.POSITIONS)][: tokens.shape[1]]
    eps = sizes.norm_eps
    for layer in range(sizes.n_layers):
        own = {place.part: part for place, part in parts.items() if place.layer == layer}
        attended = _attention(
            own,
            family,
            sizes,
            config,
            layer,
            _norm(own, Part.ATTENTION_NORM, family, eps, stream),
        )
        after = stream + _norm(own, Part.ATTENTION_POST_NORM, family, eps, attended)
        seen = stream if family.parallel else after
        yield from (stream, seen)
        computed = _mlp(own, family, config, _norm(own, Part.MLP_NORM, family, eps, seen))
        stream = after + _norm(own, Part.MLP_POST_NORM, family, eps, computed)
    yield stream


def _norm(own, part, family, eps, stream):
    """Normalise where the model has that norm."""
    if part not in own:
        return stream
    if family.norm == "rms":
        return _rms(stream, eps) * own[part]
    return functional.layer_norm(
        stream, own[part].shape, own[part], own[Part(f"{part}_bias")], eps
    )


def _rms(vectors, eps):
    return vectors * torch.rsqrt(vectors.pow(2).mean(dim=-1, keepdim=True) + eps)


def _linear(own, part, read):
    return functional.linear(read, own[part], own.get(Part(f"{part}_bias")))


def _mlp(own, family, config, read):
    name = next(key for key in _ACTIVATION_KEYS if key in config)
    activation = _ACTIVATIONS[config[name]]
    up = _linear(own, Part.UP, read)
    inner = activation(_linear(own, Part.GATE, read)) * up if family.gated else activation(up)
    return _linear(own, Part.DOWN, inner)


def _attention(own, family, sizes, config, layer, read):
    queries = _turned(own, Part.Q, sizes.n_heads, family, sizes, layer, read)
    keys = _turned(own, Part.K, sizes.n_kv_heads, family, sizes, layer, read)
    values = _linear(own, Part.V, read).unflatten(-1, (sizes.n_kv_heads, -1)).transpose(1, 2)
    group = sizes.n_heads // sizes.n_kv_heads
    keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
    scores = _soft_cap(
        queries @ keys.mT * sizes.attention_scale, config.get("attn_logit_softcapping")
    )
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    mixed = scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ values
    return _linear(own, Part.O, mixed.transpose(1, 2).flatten(2))


def _turned(own, part, n_heads, family, sizes, layer, read):
    """Compute queries or keys, normalised and turned: (batch, heads, length, head_dim)."""
    projected = _linear(own, part, read)
    gain = own.get(Part(f"{part}_norm"))
    if family.qk_norm == "all":
        projected = _rms(projected, sizes.norm_eps) * gain
    by_head = projected.unflatten(-1, (n_heads, -1)).transpose(1, 2)
    if family.qk_norm == "head":
        by_head = _rms(by_head, sizes.norm_eps) * gain
    return _rotate(by_head, sizes.rotary_of(layer))


def _rotate(vectors, frequencies):
    """Turn pair i, dimensions i and i + n_pairs, by position times its frequency."""
    n_pairs = len(frequencies)
    first, second, rest = vectors.split(
        [n_pairs, n_pairs, vectors.shape[-1] - 2 * n_pairs], dim=-1
    )
    angles = torch.arange(vectors.shape[-2])[:, None] * torch.tensor(frequencies)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def _soft_cap(scores, cap):
    return scores if cap is None else cap * torch.tanh(scores / cap)
