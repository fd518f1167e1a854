"""Rotary positions of GGUF models: scaling taken over or refused."""

import numpy as np
import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from seme.checkpoint.gguf_config import outline_gguf
from seme.checkpoint.gguf_model import read_gguf
from seme.checkpoint.gguf_rotary import FACTORS
from tests.gguf_files import gguf_model, write_gguf

LLAMA3 = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_theta": 500000.0,
}  # fmt: skip


def rotary(tmp_path, model=None, **options):
    path = write_gguf(tmp_path / "model.gguf", model, **options)
    return outline_gguf(read_gguf((path,))).config["rope_parameters"]


def test_factors_of_llama_3_become_its_scaling(tmp_path):
    model = gguf_model(hidden_size=64, num_attention_heads=1, num_key_value_heads=1,
                       rope_parameters=LLAMA3, max_position_embeddings=131072)  # fmt: skip
    plain = 500000.0 ** (-torch.arange(0, 64, 2) / 64)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](model.config, "cpu")
    factors = {FACTORS: (plain / scaled).numpy()}
    assert rotary(tmp_path, model, extra=factors) == LLAMA3
    with pytest.raises(ValueError, match="are not the factors of Llama 3 for any scale"):
        rotary(tmp_path, model, extra={FACTORS: factors[FACTORS] ** 0.9})
    with pytest.raises(ValueError, match="are not the factors of Llama 3 for any scale"):
        rotary(tmp_path, model, extra={FACTORS: np.ones(3, np.float32)})


def test_linear_scaling_is_of_the_global_layers_of_gemma(tmp_path):
    scaling = {
        "gemma3.rope.scaling.type": "linear",
        "gemma3.rope.scaling.factor": 8.0,
        "gemma3.rope.freq_base_swa": 20000.0,
    }
    assert rotary(tmp_path, gguf_model("gemma3_text"), more=scaling) == {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
    }


@pytest.mark.parametrize("scaling", [{"type": "yarn", "factor": 4.0}, {"factor": 4.0}])
def test_other_scaling_is_refused(tmp_path, scaling):
    more = {f"llama.rope.scaling.{key}": value for key, value in scaling.items()}
    with pytest.raises(ValueError, match=r"llama\.rope\.scaling\.type = .* and factor = 4\.0"):
        rotary(tmp_path, more=more)
