"""Rotary frequencies of a layer, as its configuration gives them, old style or new.

RoPE: Su et al., 2021, https://arxiv.org/abs/2104.09864, Section 3.2; the scalings as
transformers computes them.
"""

import math
from collections.abc import Mapping
from typing import Any

from seme.architecture.configuration import setting
from seme.architecture.families import Family

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
