"""LoRA adapters written by hand, or by PEFT with random factors."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from seme.checkpoint.lora import open_adapter

KEY = "base_model.model.model.layers.0.self_attn.q_proj"
PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"]}
ADAPTERS = {
    "first": {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]},
    "second": {"r": 3, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj"]},
}
"""Two adapters of other ranks, scalings and modules."""


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


def save_adapter(base, name, seed, **options):
    """Save an adapter of a base beside it, as PEFT does; return its folder."""
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) / 4)
    model.save_pretrained(base.parent / name)
    return base.parent / name
