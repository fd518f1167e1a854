"""Entries of config.json: kinds and bounds checked before anything computes with them.

A configuration is as untrusted as the weights beside it, and of what both say the tensors
decide: a size that the tensors have not is refused, since who believes it builds a model of it.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from seme.checkpoint.regular_file import shown

_OBJECTS = ("text_config", "rope_scaling", "rope_parameters")
_TEXTS = ("model_type", "hidden_act", "hidden_activation", "activation_function")
_SWITCHES = (
    "tie_word_embeddings",
    "use_parallel_residual",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
)
_LAYERS = ("num_hidden_layers", "n_layer")
_SIZES = (
    *("hidden_size", "n_embd", "intermediate_size", "n_inner", "vocab_size"),
    *("num_attention_heads", "n_head", "num_key_value_heads", "head_dim"),
    *("num_experts", "num_local_experts"),
)
"""Sizes of which a tensor has one at least as large."""


def check_config(
    config: Mapping[str, Any], shapes: Mapping[str, Collection[int]], *, path: object
) -> None:
    """Check the entries that this package computes with, and those that sizes follow from.

    Args:
        config: The parsed ``config.json``.
        shapes: Shapes of the stored tensors by name; an empty one is unknown.
        path: The file, for errors.

    Raises:
        ValueError: If an entry is of another kind than transformers', or gives more layers than
            there are tensors, or a size larger than the largest dimension of all tensors.
    """
    _check_kinds(config, path)
    text = config.get("text_config")
    for entries in (config, *([text] if text else [])):
        _check_kinds(entries, path)
        _check_sizes(entries, shapes, path)


def _check_kinds(config: Mapping[str, Any], path: object) -> None:
    for names, kind, expected in (
        (_OBJECTS, dict, "an object"),
        (_TEXTS, str, "text"),
        (_SWITCHES, bool, "true or false"),
    ):
        for name in names:
            if config.get(name) is not None and not isinstance(config[name], kind):
                raise ValueError(
                    f"{name} in {path} must be {expected} or null, got {shown(config[name])}"
                )
    for name in ("architectures", "layer_types"):
        listed = config.get(name)
        if listed is None:
            continue
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise ValueError(f"{name} in {path} must be a list of texts, got {shown(listed)}")


def _check_sizes(
    config: Mapping[str, Any], shapes: Mapping[str, Collection[int]], path: object
) -> None:
    dimensions = [size for shape in shapes.values() for size in shape]
    bounds = {
        **dict.fromkeys(_LAYERS, (len(shapes), "there are {} tensors")),
        **dict.fromkeys(
            _SIZES if dimensions else (),
            (max(dimensions, default=0), "the largest dimension of all tensors is {}"),
        ),
    }
    for name, (most, fact) in bounds.items():
        values = config.get(name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and (type(value) is not int or value < 0):
                raise ValueError(f"{name} in {path} must be a size, got {shown(value)}")
            if value is not None and value > most:
                raise ValueError(
                    f"{name} in {path} is {shown(value)}, but {fact.format(most)}: the two are "
                    "not of one model"
                )


def number(
    config: Mapping[str, Any],
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    most: float = math.inf,
) -> float:
    """Return the value of an entry that must be a finite number.

    Args:
        config: The parsed ``config.json``, for its ``model_type`` in the error.
        name: Name of the entry.
        value: Its value.
        least: Smallest value.
        most: Largest value.

    Raises:
        ValueError: If it is no number, or out of range.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        as_float = float(value)
        if math.isfinite(as_float) and least <= as_float <= most:
            return as_float
    bounds = "" if (least, most) == (-math.inf, math.inf) else f" in [{least:g}, {most:g}]"
    raise ValueError(
        f"config.json of a {config.get('model_type')} model must give a finite number{bounds} "
        f"for {name}, got {shown(value)}"
    )
