"""The sizes of a model, and the shape they give to each of its canonical parts (ours)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from seme.architecture.config_json import count, setting
from seme.architecture.families import Family
from seme.architecture.parts import Part, Place

_SCALINGS = ("default", "linear", "llama3")
_Settings = Mapping[str, Any]


def rotary_frequencies(
    config: Mapping[str, Any], family: Family, *, layer: int, head_dim: int
) -> tuple[float, ...]:
    """Compute the angular frequency of each rotary pair of a head.

    Args:
        config: The parsed ``config.json``.
        family: The architecture.
        layer: Number of the layer; Gemma 3 turns its local and global layers differently.
        head_dim: Dimension of a head.

    Returns:
        Radians per position; pair i is dimensions i and i + n_pairs of a head, what lies beyond
        2 n_pairs is not rotated. Empty for learned positions.

    Raises:
        ValueError: If the frequencies are scaled in a way other than ``linear`` or ``llama3``.
    """
    if family.positions == "learned":
        return ()
    settings = {"model_type": family.model_type, **_settings(config, family, layer)}
    scaling = settings.get("rope_type", settings.get("type", "default"))
    if scaling not in _SCALINGS:
        raise ValueError(
            f"rotary frequencies are known for rope_type {sorted(_SCALINGS)}, got {scaling!r} in "
            f"this {family.model_type} model: its heads cannot be matched with another model's, "
            "it merges only with models in the same frame"
        )
    rotated = int(head_dim * _share(config, family, settings))
    theta = _theta(config, family, settings)
    plain = tuple(theta ** (-2 * pair / rotated) for pair in range(rotated // 2))
    if scaling == "linear":
        return tuple(frequency / setting(settings, "factor") for frequency in plain)
    if scaling == "llama3":
        return _llama3(plain, settings, _trained_positions(config, settings))
    return plain


def _settings(config: Mapping[str, Any], family: Family, layer: int) -> _Settings:
    """Find what holds for a layer: one entry for all, or one per type of attention."""
    settings: _Settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = any(isinstance(value, Mapping) for value in settings.values())
    if not nested and family.local_rope_theta is None:
        return settings
    kind = _attention_type(config, layer)
    local = kind == "sliding_attention" and family.local_rope_theta is not None
    if nested:
        settings = settings.get(kind) or {}
    elif local:
        settings = {}
    local_theta = config.get("rope_local_base_freq", family.local_rope_theta)
    return {"rope_theta": local_theta, **settings} if local else settings


def _attention_type(config: Mapping[str, Any], layer: int) -> str:
    if config.get("layer_types"):
        return str(config["layer_types"][layer])
    pattern = setting(config, "sliding_window_pattern", "_sliding_window_pattern")
    return "sliding_attention" if (layer + 1) % pattern else "full_attention"


def _theta(config: Mapping[str, Any], family: Family, settings: _Settings) -> float:
    for said in (settings.get("rope_theta"), config.get("rope_theta")):
        if said is not None:
            return float(said)
    return float(config.get("rotary_emb_base", family.rope_theta))


def _share(config: Mapping[str, Any], family: Family, settings: _Settings) -> float:
    if family.rotary_share is None:
        return 1.0
    for said in (settings, config):
        if said.get("partial_rotary_factor") is not None:
            return float(said["partial_rotary_factor"])
    return float(config.get("rotary_pct", family.rotary_share))


def _trained_positions(config: Mapping[str, Any], settings: _Settings) -> float:
    """Find how many positions the model was trained on before its frequencies were scaled."""
    name = "original_max_position_embeddings"
    return float(settings.get(name) or setting(config, name, "max_position_embeddings"))


def _llama3(
    plain: tuple[float, ...], settings: _Settings, trained_positions: float
) -> tuple[float, ...]:
    """Slow down the long waves by a factor, leave the short ones, blend in between."""
    low, high = (setting(settings, f"{end}_freq_factor") for end in ("low", "high"))
    factor = setting(settings, "factor")
    scaled = []
    for frequency in plain:
        turns = trained_positions * frequency / (2 * math.pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        scaled.append(frequency * (kept + (1 - kept) / factor))
    return tuple(scaled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """The sizes of a model."""

    n_tokens: int
    """Rows of the embedding, padding included."""
    width: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_neurons: int
    """Of a dense MLP; of an expert where there is none."""
    norm_eps: float
    attention_scale: float
    """What q k^T is multiplied by."""
    rotary_by_layer: tuple[tuple[float, ...], ...] | str
    """See :func:`seme.architecture.dimensions.rotary_frequencies`; or the reason why they are not known."""

    @property
    def rotary(self) -> tuple[float, ...]:
        """Angular frequency of each rotary pair, alike in all layers; () where learned.

        Raises:
            ValueError: If the frequencies are not known, or differ from layer to layer.
        """
        first = self.rotary_of(0)
        differing = [layer for layer in range(self.n_layers) if self.rotary_of(layer) != first]
        if differing:
            raise ValueError(
                "one set of rotary frequencies was expected for all layers, but layers "
                f"{differing[:3]} differ from layer 0: ask for those of one layer (rotary_of)"
            )
        return first

    def rotary_of(self, layer: int) -> tuple[float, ...]:
        """Return the angular frequency of each rotary pair in one layer.

        Raises:
            ValueError: If the frequencies are not known.
        """
        if isinstance(self.rotary_by_layer, str):
            raise ValueError(self.rotary_by_layer)
        return self.rotary_by_layer[layer]


def measure(
    config: Mapping[str, Any], family: Family, shape_of: Callable[[Place], tuple[int, ...]]
) -> Dimensions:
    """Take the sizes of a model from its tensors where they tell, else from its configuration.

    Args:
        config: The parsed ``config.json``.
        family: The architecture.
        shape_of: Canonical shape of a part that no other is fused with.

    Raises:
        ValueError: If the configuration lacks a size.
    """
    n_tokens, width = shape_of(Place(Part.EMBEDDING))
    heads = ("num_attention_heads", "n_head")
    n_heads = count(config, *heads)
    head_dim = shape_of(Place(Part.O, 0))[1] // n_heads
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
            else shape_of(Place(Part.DOWN, 0))[1]
        ),
        norm_eps=setting(config, "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
        attention_scale=_attention_scale(config, family, head_dim),
        rotary_by_layer=_frequencies(config, family, head_dim),
    )


def canonical_shapes(family: Family, sizes: Dimensions) -> dict[Part, tuple[int, ...]]:
    """List the shape of every part that the sizes fix; not of positions, experts, constants."""
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
    scalar = setting(config, family.query_scalar) if family.query_scalar else head_dim
    return 1 / math.sqrt(scalar)


def _frequencies(
    config: Mapping[str, Any], family: Family, head_dim: int
) -> tuple[tuple[float, ...], ...] | str:
    """Compute those of all layers; where they are not known, models of one frame still merge."""
    try:
        return tuple(
            rotary_frequencies(config, family, layer=layer, head_dim=head_dim)
            for layer in range(family.n_layers)
        )
    except ValueError as error:
        return str(error)
