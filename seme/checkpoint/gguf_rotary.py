"""Rotary positions of GGUF models: what transformers does not take over from the metadata."""

import math
from typing import Any

import torch
from torch import Tensor

from seme.checkpoint.gguf_model import GgufModel
from seme.checkpoint.safetensors_file import StoredTensor, TensorSpec

FACTORS = "rope_freqs.weight"
"""Tensor of Llama 3.1 and later that divides the frequencies: configuration to transformers."""
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""Rotary scaling of all Llama 3.1 to 3.3; its factor is in the file."""


def set_rotary(config: Any, model: GgufModel) -> None:  # noqa: ANN401 (of any architecture)
    """Add the scaling of rotary frequencies to a configuration of transformers.

    Args:
        config: As transformers reads it from the model; changed in place.
        model: The model.

    Raises:
        ValueError: If the scaling is neither linear nor that of Llama 3.
    """
    prefix = f"{model.architecture}.rope"
    rotary = config.rope_parameters
    if model.architecture == "gemma3":
        local = model.metadata.get(f"{prefix}.freq_base_swa")
        if local is not None:
            rotary["sliding_attention"]["rope_theta"] = local
        rotary = rotary["full_attention"]
    kind = model.metadata.get(f"{prefix}.scaling.type", "none")
    factor = model.metadata.get(f"{prefix}.scaling.factor")
    if kind not in ("none", "linear") or (kind == "linear") != (factor is not None):
        raise ValueError(
            f"{model.file} has {prefix}.scaling.type = {kind} and factor = {factor}, expected "
            "none, or linear with a factor: take the model in safetensors"
        )
    if kind == "linear":
        rotary |= {"rope_type": "linear", "factor": factor}
    if FACTORS in model.tensors:
        rotary |= _llama3_scaling(model, config.head_dim, rotary["rope_theta"])


def _llama3_scaling(model: GgufModel, head_dim: int, theta: float) -> dict[str, Any]:
    """Return the rotary scaling that a file's factors are of.

    Raises:
        ValueError: If they are not those of Llama 3.1 to 3.3 for any factor.
    """
    stored = model.tensors[FACTORS]
    n_frequencies = head_dim // 2
    factors = torch.empty(0)
    if stored.type_name == "F32" and stored.shape == (n_frequencies,):
        place = StoredTensor(
            spec=TensorSpec(dtype=torch.float32, shape=stored.shape),
            path=stored.path,
            offset=stored.offset,
        )
        factors = place.read()
    factor = round(float(factors.max()), 3) if len(factors) else 1.0
    expected = _llama3_factors(head_dim, theta, factor)
    if len(factors) != n_frequencies or not torch.allclose(factors, expected, rtol=1e-4):
        raise ValueError(
            f"{FACTORS} in {model.file} are not the factors of Llama 3 for any scale: "
            "take the model in safetensors"
        )
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}


def _llama3_factors(head_dim: int, theta: float, factor: float) -> Tensor:
    """Compute what divides each rotary frequency (Llama 3.1; ``rope_type`` llama3)."""
    low, high, context = _LLAMA3.values()
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    turns = context / (2 * math.pi * theta**exponents)  # of a frequency over the context
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).float()
