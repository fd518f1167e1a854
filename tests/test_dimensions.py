"""Dimensions of a model, and rotary frequencies as transformers computes them."""

import copy
import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from seme.architecture.dimensions import canonical_shapes, measure, rotary_frequencies
from seme.architecture.families import family_of
from seme.architecture.parts import Part
from tests.tiny_models import DENSE

CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
}
ON_DISK = {Part.EMBEDDING: (160, 32), Part.O: (32, 48), Part.DOWN: (32, 100)}


def sizes_of(**settings):
    config = {**CONFIG, **settings}
    return measure(config, family_of(config), lambda place: ON_DISK[place.part])


def test_sizes_are_measured_from_tensors_over_the_config():
    sizes = sizes_of(hidden_size=1, head_dim=1, intermediate_size=1)
    assert (sizes.n_tokens, sizes.width, sizes.n_layers) == (160, 32, 2)
    assert (sizes.n_heads, sizes.n_kv_heads, sizes.head_dim) == (4, 2, 12)
    assert (sizes.n_neurons, sizes.norm_eps) == (100, 1e-5)


@pytest.mark.parametrize("entries", [{"num_key_value_heads": None}, {"num_key_value_heads": 4}])
def test_n_kv_heads_defaults_to_n_heads(entries):
    assert sizes_of(**entries).n_kv_heads == 4


def test_attention_scale_is_by_head_dim_except_in_gemma():
    assert sizes_of().attention_scale == 1 / math.sqrt(12)
    gemma = sizes_of(model_type="gemma2", query_pre_attn_scalar=64)
    assert gemma.attention_scale == 1 / 8
    with pytest.raises(ValueError, match="gemma2 model must say query_pre_attn_scalar"):
        sizes_of(model_type="gemma2")


def test_mixture_takes_n_neurons_from_the_config():
    sizes = sizes_of(model_type="mixtral", num_local_experts=3, intermediate_size=24)
    assert sizes.n_neurons == 24


def test_common_rotary_frequencies_require_equal_layers():
    assert sizes_of().rotary == sizes_of().rotary_of(1)
    assert len(sizes_of().rotary) == 6
    both = ["sliding_attention", "full_attention"]
    gemma = sizes_of(model_type="gemma3_text", query_pre_attn_scalar=64, layer_types=both)
    assert gemma.rotary_of(0) != gemma.rotary_of(1)
    with pytest.raises(ValueError, match=r"layers \[1\] differ from layer 0"):
        _ = gemma.rotary


def test_unsupported_rope_scaling_is_refused_on_access():
    sizes = sizes_of(rope_scaling={"rope_type": "yarn", "factor": 4.0})
    for ask in (lambda: sizes.rotary, lambda: sizes.rotary_of(1)):
        with pytest.raises(ValueError, match=r"got 'yarn' in this llama model"):
            ask()


def test_missing_norm_eps_is_refused_by_name():
    with pytest.raises(ValueError, match="rms_norm_eps or layer_norm_eps"):
        sizes_of(rms_norm_eps=None)


def test_canonical_shapes_follow_from_the_dimensions():
    config = {**CONFIG, "model_type": "olmo2"}
    shapes = canonical_shapes(family_of(config), sizes_of())
    assert (shapes[Part.Q], shapes[Part.K], shapes[Part.O]) == ((48, 32), (24, 32), (32, 48))
    assert (shapes[Part.GATE], shapes[Part.DOWN]) == ((100, 32), (32, 100))
    assert (shapes[Part.Q_NORM], shapes[Part.K_NORM]) == ((48,), (24,))
    assert canonical_shapes(family_of(CONFIG), sizes_of())[Part.K_NORM] == (12,)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def frequencies(config, layer=0, head_dim=8):
    return rotary_frequencies(config, family_of(config), layer=layer, head_dim=head_dim)


def transformers_frequencies(model_type, buffer="inv_freq", **settings):
    given = copy.deepcopy({**DENSE[model_type], **settings})  # transformers writes into it
    config = AutoConfig.for_model(model_type, **given)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).base_model
    return getattr(model.rotary_emb, buffer).tolist()


@pytest.mark.parametrize(
    ("config", "head_dim", "expected"),
    [
        ({"model_type": "llama", "num_hidden_layers": 1}, 8, (1.0, 0.1, 0.01, 0.001)),
        ({"model_type": "gpt_neox", "num_hidden_layers": 1}, 16, (1.0, 0.01)),  # a quarter
        ({"model_type": "gpt2", "n_layer": 1}, 8, ()),  # learned positions
    ],
)
def test_rotary_frequencies_are_powers_of_theta(config, head_dim, expected):
    # theta ** (-2 i / rotated dimensions), theta = 10000
    assert frequencies(config, head_dim=head_dim) == pytest.approx(expected)


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
def test_rotary_frequencies_equal_transformers(model_type, settings):
    config = {**DENSE[model_type], "model_type": model_type, **settings}
    expected = transformers_frequencies(model_type, **settings)
    assert frequencies(config) == pytest.approx(expected, rel=1e-6)


def test_llama3_scaling_slows_keeps_and_blends_frequencies():
    config = {"model_type": "llama", "num_hidden_layers": 1, "rope_scaling": LLAMA3}
    # pairs turn 64 f / 2 pi = 10.2, 1.02, 0.1, 0.01 times over the trained positions
    kept, blended, *slowed = frequencies(config)
    share = (64 * 0.1 / (2 * math.pi) - 1) / 3
    assert kept == 1.0
    assert blended == pytest.approx(0.1 * (share + (1 - share) / 8))
    assert slowed == pytest.approx([0.01 / 8, 0.001 / 8])


def test_llama3_scaling_defaults_to_max_position_embeddings():
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
def test_gemma3_has_local_and_global_frequencies(settings):
    config = {**DENSE["gemma3_text"], "model_type": "gemma3_text", **settings}
    for layer, kind in enumerate(("sliding_attention", "full_attention")):
        expected = transformers_frequencies("gemma3_text", f"{kind}_inv_freq", **settings)
        assert frequencies(config, layer, head_dim=12) == pytest.approx(expected, rel=1e-6)


def test_old_gemma3_config_uses_the_sliding_window_pattern():
    config = {"model_type": "gemma3_text", "num_hidden_layers": 6, "sliding_window_pattern": 3}
    slowest = [frequencies(config, layer)[1] for layer in range(6)]
    local, everywhere = 1e4**-0.25, 1e6**-0.25
    assert slowest == pytest.approx([local, local, everywhere] * 2)


@pytest.mark.parametrize("kind", ["yarn", "longrope", "dynamic"])
def test_unknown_rope_scaling_lists_the_known_ones(kind):
    config = {"model_type": "phi3", "num_hidden_layers": 1, "rope_scaling": {"type": kind}}
    with pytest.raises(ValueError, match=rf"'linear', 'llama3'\], got '{kind}'"):
        frequencies(config)


@pytest.mark.parametrize(
    ("kind", "left_out"), [("linear", "factor"), ("llama3", "low_freq_factor")]
)
def test_incomplete_rope_scaling_names_the_missing_entry(kind, left_out):
    scaling = {**LLAMA3, "rope_type": kind}
    del scaling[left_out]
    config = {"model_type": "llama", "num_hidden_layers": 1, "rope_scaling": scaling}
    with pytest.raises(ValueError, match=rf"llama model must say {left_out}, got only \[.*"):
        frequencies(config)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"rope_theta": 0}, "for rope_theta, got 0"),
        ({"rope_theta": "1e4"}, "for rope_theta, got '1e4'"),
        ({"rope_scaling": {"rope_theta": []}}, r"for rope_theta, got \[\]"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "for factor, got 0"),
        ({"rope_scaling": {"type": []}}, r"got \[\] in this"),
        (
            {"rope_scaling": {**LLAMA3, "rope_type": "llama3", "low_freq_factor": 9}},
            "got 9 and",
        ),
        (
            {"model_type": "phi3", "partial_rotary_factor": 10**9},
            "in .0, 1. for partial_rotary_factor",
        ),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 0}, "for sliding_window_patt"),
        ({"model_type": "gemma3_text", "layer_types": []}, "must say sliding_window_pattern"),
    ],
)
def test_rotary_entries_out_of_range_are_named(entries, match):
    with pytest.raises(ValueError, match=match):
        frequencies({"model_type": "llama", "num_hidden_layers": 1, **entries})
