"""LoRA adapters written by hand."""

import json

import pytest
import torch
from safetensors.torch import save_file

from seme.checkpoint.lora import open_adapter

KEY = "base_model.model.model.layers.0.self_attn.q_proj"
PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"]}


def opened(folder, **options):
    return open_adapter(folder, root=folder.parent, **options)


def refused(folder, match):
    """Assert that opening the adapter raises this message; return the error."""
    with pytest.raises(ValueError, match=match) as caught:
        opened(folder)
    return caught.value


def write_adapter(base, tensors, **config):
    """Write an adapter by hand: PEFT's names, the settings given over plain ones."""
    folder = base.parent / "adapter"
    folder.mkdir(exist_ok=True)
    settings = {**PLAIN, "base_model_name_or_path": str(base), **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def pair(key=KEY, *, inputs=16, outputs=16, rank=2):
    return {
        f"{key}.lora_A.weight": torch.ones(rank, inputs),
        f"{key}.lora_B.weight": torch.ones(outputs, rank),
    }
