"""Entries of a model's ``config.json``, under the names that architectures give them."""

from collections.abc import Mapping
from typing import Any

DECISIVE = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim")
"""Entries that cut tensors of one shape into other heads: models that differ do not fit."""
_DEFAULT_ROPE = {"rope_theta": 10_000.0, "rope_type": "default"}
_ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function")


def setting(config: Mapping[str, Any], *names: str) -> Any:  # noqa: ANN401  (JSON)
    """Return what a configuration says under the first of these names that it has, not null.

    Raises:
        ValueError: If it has none of them.
    """
    for name in names:
        if config.get(name) is not None:
            return config[name]
    raise ValueError(
        f"config.json of a {config.get('model_type')} model must say {' or '.join(names)}, got "
        f"only {sorted(config)}"
    )


def count(config: Mapping[str, Any], *names: str) -> int:
    """Return a :func:`setting` that counts something.

    Raises:
        ValueError: If there is none, or it is not an integer of at least 1.
    """
    number = setting(config, *names)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(
            f"config.json of a {config.get('model_type')} model must give an integer of at least "
            f"1 for {' or '.join(names)}, got {number!r}"
        )
    return number


def activation(config: Mapping[str, Any]) -> str:
    """Return the name of the MLP's activation; ``the default`` where none is stated."""
    name = next((str(config[key]) for key in _ACTIVATIONS if config.get(key)), "the default")
    return {"swish": "silu"}.get(name, name)


def computed_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that decide what a tensor of a given shape computes.

    Args:
        config: The parsed ``config.json``; of a model of text and images, its text part counts.

    Returns:
        Entry to value, None where it is not stated; alike for transformers 4 and 5.
    """
    text = {**config, **(config.get("text_config") or {})}  # a model of text and images
    heads = text.get("num_attention_heads", text.get("n_head"))
    width = text.get("hidden_size")
    found = {
        "model_type": text.get("model_type"),
        "hidden_act": text.get("hidden_act"),
        "num_attention_heads": heads,
        "num_key_value_heads": text.get("num_key_value_heads") or heads,
        "head_dim": text.get("head_dim") or (width // heads if width and heads else None),
    }
    return found | _rope(text)


def _rope(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary embedding's entries, alike for transformers 4 and 5."""
    rope = {**(text.get("rope_scaling") or {}), **(text.get("rope_parameters") or {})}
    if "type" in rope:  # the older name
        rope.setdefault("rope_type", rope.pop("type"))
    top_level = {"rope_theta": text["rope_theta"]} if "rope_theta" in text else {}
    return _DEFAULT_ROPE | rope | top_level
