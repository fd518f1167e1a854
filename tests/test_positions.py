"""Rotary frequencies, against those transformers computes from the same configuration."""

import copy
import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from seme.architecture.dimensions import rotary_frequencies
from seme.architecture.families import family_of
from tests.tiny_models import DENSE

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def frequencies(config, layer=0, head_dim=8):
    return rotary_frequencies(config, family_of(config), layer=layer, head_dim=head_dim)


def as_transformers_has_it(model_type, buffer="inv_freq", **settings):
    given = copy.deepcopy({**DENSE[model_type], **settings})  # transformers writes into it
    config = AutoConfig.for_model(model_type, **given)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).base_model
    return getattr(model.rotary_emb, buffer).tolist()


def test_each_pair_turns_slower_than_the_one_before():
    # head of 8: theta ** (-2 i / 8) = 10000 ** (0, -1/4, -1/2, -3/4)
    config = {"model_type": "llama", "num_hidden_layers": 1}
    assert frequencies(config) == pytest.approx((1.0, 0.1, 0.01, 0.001))


def test_a_quarter_of_a_neox_head_turns_unless_its_config_says_otherwise():
    config = {"model_type": "gpt_neox", "num_hidden_layers": 1}
    assert frequencies(config, head_dim=16) == pytest.approx((1.0, 0.01))


def test_learned_positions_turn_nothing():
    assert frequencies({"model_type": "gpt2", "n_layer": 1}) == ()


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("llama", {"rope_theta": 500.0}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
        ("llama", {"rope_theta": 500.0, "rope_scaling": LLAMA3}),
        ("llama", {"rope_parameters": {"rope_theta": 500.0, **LLAMA3}}),
        ("qwen3", {"rope_theta": 1e6, "head_dim": 8}),
        ("mistral", {}),
        ("phi3", {"partial_rotary_factor": 0.75}),
        ("phi3", {"partial_rotary_factor": 1.0}),
        ("gpt_neox", {"rotary_pct": 0.75, "rotary_emb_base": 500}),
        ("gpt_neox", {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 500.0}}),
    ],
)
def test_the_frequencies_are_those_of_transformers(model_type, settings):
    config = {**DENSE[model_type], "model_type": model_type, **settings}
    expected = as_transformers_has_it(model_type, **settings)
    assert frequencies(config) == pytest.approx(expected, rel=1e-6)


def test_llama3_slows_long_waves_keeps_short_ones_and_blends_in_between():
    config = {"model_type": "llama", "num_hidden_layers": 1, "rope_scaling": LLAMA3}
    # pairs turn 64 f / 2 pi = 10.2, 1.02, 0.1, 0.01 times over the trained positions
    kept, blended, *slowed = frequencies(config)
    share = (64 * 0.1 / (2 * math.pi) - 1) / 3
    assert kept == 1.0
    assert blended == pytest.approx(0.1 * (share + (1 - share) / 8))
    assert slowed == pytest.approx([0.01 / 8, 0.001 / 8])


def test_llama3_without_trained_positions_takes_the_models_own():
    scaling = {key: value for key, value in LLAMA3.items() if not key.startswith("original")}
    config = {"model_type": "llama", "num_hidden_layers": 1, "max_position_embeddings": 64}
    full = frequencies({**config, "rope_scaling": LLAMA3})
    assert frequencies({**config, "rope_scaling": scaling}) == full


OLD_GEMMA = {
    "rope_theta": 1e6,
    "rope_local_base_freq": 500.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}
NEW_GEMMA = {
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    }
}


HALF_NEW_GEMMA = {"rope_parameters": {"full_attention": {"rope_theta": 2e6}}}


@pytest.mark.parametrize("settings", [{}, OLD_GEMMA, NEW_GEMMA, HALF_NEW_GEMMA])
def test_gemma3_turns_local_and_global_layers_differently(settings):
    config = {**DENSE["gemma3_text"], "model_type": "gemma3_text", **settings}
    for layer, kind in enumerate(("sliding_attention", "full_attention")):
        expected = as_transformers_has_it("gemma3_text", f"{kind}_inv_freq", **settings)
        assert frequencies(config, layer, head_dim=12) == pytest.approx(expected, rel=1e-6)


def test_an_old_gemma3_config_tells_its_global_layers_by_a_pattern():
    config = {"model_type": "gemma3_text", "num_hidden_layers": 6, "sliding_window_pattern": 3}
    slowest = [frequencies(config, layer)[1] for layer in range(6)]
    local, everywhere = 1e4**-0.25, 1e6**-0.25
    assert slowest == pytest.approx([local, local, everywhere] * 2)


@pytest.mark.parametrize("kind", ["yarn", "longrope", "dynamic"])
def test_a_scaling_that_is_not_known_is_named_with_the_known_ones(kind):
    config = {"model_type": "phi3", "num_hidden_layers": 1, "rope_scaling": {"type": kind}}
    with pytest.raises(
        ValueError, match=rf"\['default', 'linear', 'llama3'\], got '{kind}' in"
    ):
        frequencies(config)


@pytest.mark.parametrize(
    ("kind", "left_out"), [("linear", "factor"), ("llama3", "low_freq_factor")]
)
def test_a_scaling_without_its_numbers_says_which_is_missing(kind, left_out):
    scaling = {**LLAMA3, "rope_type": kind}
    del scaling[left_out]
    config = {"model_type": "llama", "num_hidden_layers": 1, "rope_scaling": scaling}
    with pytest.raises(ValueError, match=rf"llama model must say {left_out}, got only \[.*"):
        frequencies(config)
