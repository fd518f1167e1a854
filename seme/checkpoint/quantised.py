"""Quantised checkpoints, recognised by tensors and configuration, and refused."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seme.checkpoint.regular_file import shown
from seme.checkpoint.safetensors_file import StoredTensor

_WEIGHT = re.compile(r"(^|[._])q?weight([._:]|$)")
_DEQUANTISERS = ("absmax", "codebook", "scale", "zero")
"""Parts of the names of tensors that dequantise a weight."""


def refuse_quantised(
    folder: Path, config: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> None:
    """Refuse a quantised checkpoint, which would merge into nonsense without an error.

    A checkpoint is quantised if an integer tensor is named like a weight or has a sibling that
    dequantises it (scales, zero points, codebooks), or if its configuration says so. Other
    integers (positions, masks, counters) are copied by a merge. Float8, float4 and complex
    dtypes are refused when the header is read.

    Args:
        folder: The model's folder.
        config: The parsed ``config.json``.
        stored: The tensors by name, from the headers.

    Raises:
        ValueError: If it is quantised; names the first such tensor and its file, or the entry.
    """
    split = {name: name.rpartition(".") for name in sorted(stored)}
    quantised_modules = {
        module for module, _, leaf in split.values() if any(d in leaf for d in _DEQUANTISERS)
    }
    for name, (module, _, _) in split.items():
        dtype = stored[name].spec.dtype
        if dtype.is_floating_point or dtype == torch.bool:
            continue
        if _WEIGHT.search(name) or module in quantised_modules:
            raise ValueError(
                f"{folder} is quantised: {name} ({dtype}) in {stored[name].path.name} is a "
                "part of packed weights; use the checkpoint it was quantised from"
            )
    stated = config.get("quantization_config")
    if stated:
        raise ValueError(
            f"{folder} is quantised: its config.json has quantization_config {shown(stated)}; "
            "use the checkpoint it was quantised from, or remove the entry if it is wrong"
        )
