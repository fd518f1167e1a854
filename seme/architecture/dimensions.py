"""Sizes of a model, shapes of its canonical parts, and what its config says of both."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from seme.architecture.config_entries import number
from seme.architecture.families import count, setting
from seme.architecture.parts import Family, Part, Place
from seme.checkpoint.regular_file import shown

_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
_SCALINGS = ("default", "linear", "llama3")
_Settings = Mapping[str, Any]


def rotary_frequencies(
    config: Mapping[str, Any], family: Family, *, layer: int, head_dim: int
) -> tuple[float, ...]:
    """Compute the angular frequency of each rotary pair of a head.

    Args:
        config: The parsed ``config.json``.
        family: The architecture.
        layer: Index of the layer; Gemma 3 has other frequencies in layers of sliding attention.
        head_dim: Dimension of an attention head.

    Returns:
        Radians per position; pair i is dimensions i and i + n_pairs of a head, dimensions from
        2 n_pairs on are not rotated. Empty for learned positions.

    Raises:
        ValueError: If the frequencies are scaled, but neither ``linear`` nor ``llama3``, or an
            entry they follow from is missing or out of range.
    """
    if family.positions == "learned":
        return ()
    settings = {"model_type": family.model_type, **_settings(config, family, layer)}
    scaling = settings.get("rope_type", settings.get("type", "default"))
    if scaling not in _SCALINGS:
        raise ValueError(
            f"rotary frequencies are known for rope_type {sorted(_SCALINGS)}, got {shown(scaling)} "
            f"in this {family.model_type} model: its heads cannot be matched with those of "
            "another; merge it with models in the same frame only"
        )
    rotated = int(head_dim * _share(config, family, settings))
    theta = _theta(config, family, settings)
    plain = tuple(theta ** (-2 * pair / rotated) for pair in range(rotated // 2))
    if scaling == "linear":
        factor = _positive(settings, "factor", setting(settings, "factor"))
        return tuple(frequency / factor for frequency in plain)
    if scaling == "llama3":
        return _llama3(plain, settings, _trained_positions(config, settings))
    return plain


def _settings(config: Mapping[str, Any], family: Family, layer: int) -> _Settings:
    """Return a layer's rotary settings: those of all layers, or of its type of attention."""
    settings: _Settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = any(isinstance(value, Mapping) for value in settings.values())
    if not nested and family.local_rope_theta is None:
        return settings
    kind = _attention_type(config, layer)
    local = kind == "sliding_attention" and family.local_rope_theta is not None
    if nested:
        inner = settings.get(kind)
        settings = inner if isinstance(inner, Mapping) else {}
    elif local:
        settings = {}
    local_theta = config.get("rope_local_base_freq", family.local_rope_theta)
    return {"rope_theta": local_theta, **settings} if local else settings


def _attention_type(config: Mapping[str, Any], layer: int) -> str:
    types = config.get("layer_types")
    if types:
        if layer >= len(types):
            raise ValueError(
                f"config.json of a {config.get('model_type')} model must give a type for every "
                f"layer in layer_types, got {len(types)} and layer {layer}"
            )
        return str(types[layer])
    pattern = count(config, "sliding_window_pattern", "_sliding_window_pattern")
    return "sliding_attention" if (layer + 1) % pattern else "full_attention"


def _theta(config: Mapping[str, Any], family: Family, settings: _Settings) -> float:
    given = (
        settings.get("rope_theta"),
        config.get("rope_theta"),
        config.get("rotary_emb_base"),
    )
    theta = next((value for value in given if value is not None), family.rope_theta)
    return _positive(config, "rope_theta", theta)


def _share(config: Mapping[str, Any], family: Family, settings: _Settings) -> float:
    if family.rotary_share is None:
        return 1.0
    name = "partial_rotary_factor"
    given = (settings.get(name), config.get(name), config.get("rotary_pct"))
    share = next((value for value in given if value is not None), family.rotary_share)
    return number(config, name, share, least=0, most=1)


def _trained_positions(config: Mapping[str, Any], settings: _Settings) -> float:
    """Return the context length before the frequencies were scaled."""
    name = "original_max_position_embeddings"
    given = settings.get(name) or setting(config, name, "max_position_embeddings")
    return _positive(config, name, given)


def _positive(config: Mapping[str, Any], name: str, value: object) -> float:
    return number(config, name, value, least=1e-30, most=1e30)


def _llama3(
    plain: tuple[float, ...], settings: _Settings, trained_positions: float
) -> tuple[float, ...]:
    """Divide low frequencies by a factor, keep high ones, interpolate in between."""
    low, high, factor = (
        _positive(settings, name, setting(settings, name))
        for name in ("low_freq_factor", "high_freq_factor", "factor")
    )
    if low >= high:
        raise ValueError(
            f"low_freq_factor of llama3's rotary scaling must be below high_freq_factor, got "
            f"{low:g} and {high:g}"
        )
    scaled = []
    for frequency in plain:
        turns = trained_positions * frequency / (2 * math.pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        scaled.append(frequency * (kept + (1 - kept) / factor))
    return tuple(scaled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Sizes of a model, with its rotary frequencies."""

    n_tokens: int
    """Rows of the embedding, padding included."""
    width: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_neurons: int
    """Neurons of a dense MLP; of one expert in a model without dense MLPs."""
    norm_eps: float
    attention_scale: float
    """Factor of q k^T."""
    rotary_by_layer: tuple[tuple[float, ...], ...] | str
    """Per layer as :func:`rotary_frequencies` returns it, or the reason why it is unknown."""

    @property
    def rotary(self) -> tuple[float, ...]:
        """Angular frequency of each rotary pair, equal in all layers; () for learned positions.

        Raises:
            ValueError: If the frequencies are unknown, or differ between layers.
        """
        first = self.rotary_of(0)
        differing = [layer for layer in range(self.n_layers) if self.rotary_of(layer) != first]
        if differing:
            raise ValueError(
                "one set of rotary frequencies was expected for all layers, but layers "
                f"{differing[:3]} differ from layer 0: use rotary_of(layer)"
            )
        return first

    def rotary_of(self, layer: int) -> tuple[float, ...]:
        """Return the angular frequency of each rotary pair in one layer.

        Raises:
            ValueError: If the frequencies are unknown.
        """
        if isinstance(self.rotary_by_layer, str):
            raise ValueError(self.rotary_by_layer)
        return self.rotary_by_layer[layer]


def measure(
    config: Mapping[str, Any], family: Family, shape_of: Callable[[Place], tuple[int, ...]]
) -> Dimensions:
    """Read the sizes of a model from its tensors, and from its configuration what they lack.

    Args:
        config: The parsed ``config.json``.
        family: The architecture.
        shape_of: Returns the canonical shape of a part that is stored alone.

    Raises:
        ValueError: If the configuration lacks a size or it is out of range, or one of the
            tensors it is compared with is no matrix.
    """
    n_tokens, width = _matrix(shape_of, Place(Part.EMBEDDING))
    heads = ("num_attention_heads", "n_head")
    n_heads = count(config, *heads)
    n_columns = _matrix(shape_of, Place(Part.O, 0))[1]
    head_dim = n_columns // n_heads
    if head_dim < 1:
        raise ValueError(
            f"config.json gives {n_heads} attention heads, but attention's output has only "
            f"{n_columns} columns to divide into heads"
        )
    return Dimensions(
        n_tokens=n_tokens,
        width=width,
        n_layers=family.n_layers,
        n_heads=n_heads,
        n_kv_heads=count(config, "num_key_value_heads", *heads),
        head_dim=head_dim,
        n_neurons=(
            count(config, "intermediate_size")
            if family.n_experts
            else _matrix(shape_of, Place(Part.DOWN, 0))[1]
        ),
        norm_eps=number(config, "the norms' epsilon", setting(config, *_EPSILONS), least=0),
        attention_scale=_attention_scale(config, family, head_dim),
        rotary_by_layer=_frequencies(config, family, head_dim),
    )


def _matrix(shape_of: Callable[[Place], tuple[int, ...]], place: Place) -> tuple[int, int]:
    """Return the shape of a part that must be a matrix."""
    match shape_of(place):
        case (int(rows), int(columns)):
            return rows, columns
        case shape:
            raise ValueError(f"{place} must be a matrix, got the shape {shape}")


def canonical_shapes(family: Family, sizes: Dimensions) -> dict[Part, tuple[int, ...]]:
    """Return the shapes of all parts that the sizes fix: not positions, experts, constants."""
    width, neurons = (sizes.width,), (sizes.n_neurons,)
    queries = (sizes.n_heads * sizes.head_dim,)
    keys = (sizes.n_kv_heads * sizes.head_dim,)
    over_all_heads = family.qk_norm == "all"
    norms = (Part.FINAL_NORM, Part.ATTENTION_NORM, Part.MLP_NORM)
    biases = (Part.FINAL_NORM_BIAS, Part.ATTENTION_NORM_BIAS, Part.MLP_NORM_BIAS)
    post_norms = (Part.ATTENTION_POST_NORM, Part.MLP_POST_NORM)
    return {
        Part.EMBEDDING: (sizes.n_tokens, *width),
        Part.HEAD: (sizes.n_tokens, *width),
        **dict.fromkeys((*norms, *biases, *post_norms), width),
        Part.Q: queries + width,
        Part.K: keys + width,
        Part.V: keys + width,
        Part.O: width + queries,
        Part.Q_BIAS: queries,
        Part.K_BIAS: keys,
        Part.V_BIAS: keys,
        Part.O_BIAS: width,
        Part.Q_NORM: queries if over_all_heads else (sizes.head_dim,),
        Part.K_NORM: keys if over_all_heads else (sizes.head_dim,),
        Part.GATE: neurons + width,
        Part.UP: neurons + width,
        Part.DOWN: width + neurons,
        Part.GATE_BIAS: neurons,
        Part.UP_BIAS: neurons,
        Part.DOWN_BIAS: width,
        Part.ROUTER: (family.n_experts, *width),
    }


def _attention_scale(config: Mapping[str, Any], family: Family, head_dim: int) -> float:
    name = family.query_scalar
    return 1 / math.sqrt(_positive(config, name, setting(config, name)) if name else head_dim)


def _frequencies(
    config: Mapping[str, Any], family: Family, head_dim: int
) -> tuple[tuple[float, ...], ...] | str:
    """Compute those of all layers, or say why not: models of one frame still merge."""
    try:
        return tuple(
            rotary_frequencies(config, family, layer=layer, head_dim=head_dim)
            for layer in range(family.n_layers)
        )
    except ValueError as error:
        return str(error)
