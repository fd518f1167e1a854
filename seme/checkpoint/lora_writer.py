"""LoRA adapters written as PEFT saves them: configuration and factors, their scaling in them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seme.checkpoint.lora import ADAPTER_CONFIG, ADAPTER_FILE
from seme.checkpoint.model_folder import read_object
from seme.checkpoint.safetensors_file import TensorSpec, lay_out

_PREFIX = "base_model.model."


def write_adapter(
    folder: Path, factors: Mapping[str, tuple[Tensor, Tensor]], *, like: Path
) -> None:
    """Write an adapter's two files into a folder, factors in float32.

    Args:
        folder: An existing folder.
        factors: PEFT's name of a module to A, (rank, inputs), and B, (outputs, rank).
        like: Folder of an adapter of the same base.
    """
    tensors = {}
    for module, pair in factors.items():
        for name, factor in zip(_names(module), pair, strict=True):
            tensors[name] = factor.float().contiguous()
    _write_tensors(folder / ADAPTER_FILE, tensors)
    ranks = {module: down.shape[0] for module, (down, _) in factors.items()}
    config = adapter_config(read_object(like / ADAPTER_CONFIG, of="a PEFT adapter"), ranks)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def adapter_bytes(shapes: Mapping[str, tuple[int, int, int]]) -> int:
    """Return the size of the file that :func:`write_adapter` writes factors to.

    Args:
        shapes: PEFT's name of a module to its rank, inputs and outputs.
    """
    specs = {
        name: TensorSpec(dtype=torch.float32, shape=shape)
        for module, (rank, inputs, outputs) in shapes.items()
        for name, shape in zip(_names(module), [(rank, inputs), (outputs, rank)], strict=True)
    }
    prefix, _ = lay_out(Path(ADAPTER_FILE), specs)
    return len(prefix) + sum(spec.nbytes for spec in specs.values())


def _names(module: str) -> tuple[str, str]:
    """Name A and B of a module as PEFT does."""
    return f"{_PREFIX}{module}.lora_A.weight", f"{_PREFIX}{module}.lora_B.weight"


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    specs = {n: TensorSpec(dtype=t.dtype, shape=tuple(t.shape)) for n, t in tensors.items()}
    prefix, places = lay_out(path, specs)
    with path.open("wb") as file:
        file.write(prefix)
        for name, tensor in tensors.items():
            file.seek(places[name].offset)
            file.write(tensor.view(-1).view(torch.uint8).numpy().data)


def adapter_config(of_source: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return PEFT's configuration of an adapter whose factors hold their scaling.

    Args:
        of_source: Configuration of one of the merged adapters: base, task and orientation.
        ranks: Module to rank; alpha is the rank, so that the scaling is 1.
    """
    usual = max(ranks.values())
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    kept = ("base_model_name_or_path", "revision", "task_type")
    return {
        "peft_type": "LORA",
        **{key: of_source.get(key) for key in kept},
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "modules_to_save": None,
        "bias": "none",
        "fan_in_fan_out": bool(of_source.get("fan_in_fan_out")),
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }
