"""Quantised checkpoints: recognised by what they hold, and refused by the tensor's name.

Codes are no weights: a merge of them, or a copy of them beside merged scales, would load without
an error and compute nonsense. Float8, float4 and complex tensors never get here, since
:func:`seme.checkpoint.safetensors_file.read_header` refuses their dtypes. The names are those that GPTQ, AWQ,
bitsandbytes, compressed-tensors, MXFP4, HQQ, AQLM and quanto write; the rules are ours.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seme.checkpoint.safetensors_file import StoredTensor

_WRITTEN_BY_QUANTISERS = frozenset(
    {
        "SCB",
        "absmax",
        "g_idx",
        "nested_absmax",
        "nested_quant_map",
        "quant_map",
        "qweight",
        "qzeros",
        "weight_packed",
        "weight_scale",
        "weight_scale_inv",
        "weight_zero_point",
    }
)
_WEIGHT = re.compile(r"(^|[._])q?weight([._:]|$)")
_BESIDE_CODES = ("absmax", "codebook", "scale", "zero")
_STATED_IN = ("quantization_config", "compression_config")


def refuse_quantised(
    folder: Path, config: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> None:
    """Refuse a checkpoint whose tensors, or whose configuration, say that it is quantised.

    Integers that no sign makes a weight (positions, masks, counters) are no reason: a merge
    copies them.

    Args:
        folder: The model's folder.
        config: The parsed ``config.json``.
        stored: The tensors by name, from the headers.

    Raises:
        ValueError: If it is quantised; names the first such tensor and its file where there is
            one.
    """
    beside = {_module(name) for name in stored if _is_beside_codes(name)}
    for name in sorted(stored):
        dtype = stored[name].spec.dtype
        if _holds_codes(name, dtype, beside) or _is_of_a_quantiser(name):
            raise ValueError(
                f"{folder} is quantised: {name} ({dtype}) in {stored[name].path.name} is a part "
                "of packed weights, which cannot be merged: use the checkpoint it was quantised "
                "from"
            )
    for key in _STATED_IN:
        stated = config.get(key) or (config.get("text_config") or {}).get(key)
        if stated is not None:
            raise ValueError(
                f"{folder} is quantised, says its config.json: {key} is {stated!r:.80}; use the "
                f"checkpoint it was quantised from, or remove {key} if the weights are plain"
            )


def _holds_codes(name: str, dtype: torch.dtype, beside: set[str]) -> bool:
    """Whether integers stand for weights: by their name, or by the scales that lie beside them."""
    if dtype.is_floating_point or dtype == torch.bool:
        return False
    return _WEIGHT.search(name) is not None or _module(name) in beside


def _is_of_a_quantiser(name: str) -> bool:
    """Whether only quantisers give tensors this name."""
    return name.rpartition(".")[2] in _WRITTEN_BY_QUANTISERS


def _is_beside_codes(name: str) -> bool:
    """Whether a tensor is, by its name, what codes are multiplied with or looked up in."""
    return any(word in name.rpartition(".")[2] for word in _BESIDE_CODES)


def _module(name: str) -> str:
    """Return the module that a tensor belongs to."""
    return name.rpartition(".")[0]
