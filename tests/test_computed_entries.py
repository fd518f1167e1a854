"""Config entries that decide what tensors compute: one form for transformers 4 and 5."""

import pytest
from transformers import AutoConfig

from seme.architecture.computed_entries import computed_entries

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
OLD = {
    "llama": {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "phi": {"rope_theta": 10000.0, "partial_rotary_factor": 0.4},
    "gpt_neox": {"rotary_emb_base": 20000, "rotary_pct": 0.5},
    "gemma3_text": {
        "rope_theta": 2e6,
        "rope_local_base_freq": 5e3,
        "num_key_value_heads": 4,
        "head_dim": 8,
    },
    "stablelm": {"num_key_value_heads": 4},
    "mixtral": {"num_key_value_heads": 4},
    "granite": {"embedding_multiplier": 12.0, "num_key_value_heads": 4},
}
"""Entries as transformers 4 writes them."""


def differing(first, second):
    ours, theirs = computed_entries(first), computed_entries(second)
    keys = ours.keys() | theirs.keys()
    return {key for key in keys if ours.get(key) != theirs.get(key)}


@pytest.mark.parametrize("model_type", OLD)
def test_a_config_of_transformers_4_equals_what_transformers_5_makes_of_it(model_type):
    old = {"model_type": model_type, **SIZES, **OLD[model_type]}
    new = AutoConfig.for_model(model_type, **{**SIZES, **OLD[model_type]}).to_dict()
    stated = {key for key, value in computed_entries(old).items() if value is not None}
    assert differing(old, new) & stated == set()


@pytest.mark.parametrize(
    ("model_type", "change", "entries"),
    [
        ("phi", {"partial_rotary_factor": 0.25}, {"partial_rotary_factor"}),
        ("gpt_neox", {"rotary_emb_base": 1e6}, {"rope_theta"}),
        ("gpt_neox", {"rotary_pct": 0.25}, {"partial_rotary_factor"}),
        ("llama", {"rms_norm_eps": 1e-5}, {"norm_eps"}),
        ("gemma3_text", {"rope_local_base_freq": 1e4}, {"rope_theta of sliding_attention"}),
        ("gemma3_text", {"rope_theta": 1e6}, {"rope_theta of full_attention"}),
        ("granite", {"embedding_multiplier": 1.0}, {"embedding_multiplier"}),
        ("granite", {"logits_scaling": 8.0}, {"logits_scaling"}),
        ("granite", {"logits_scaling": 1.0}, set()),
        ("llama", {"hidden_activation": "gelu"}, {"hidden_act"}),
    ],
)
def test_entries_that_change_what_is_computed_differ(model_type, change, entries):
    config = {"model_type": model_type, **SIZES, **OLD[model_type], "rms_norm_eps": 1e-6}
    assert differing(config, {**config, **change}) == entries


def test_the_length_before_scaling_counts_where_the_scaling_depends_on_it():
    scaled = {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "model_type": "qwen2"}
    stated = {**scaled["rope_scaling"], "original_max_position_embeddings": 32}
    short = {**scaled, "max_position_embeddings": 32}
    assert differing(short, {**short, "rope_scaling": stated}) == set()
    assert differing(short, {**scaled, "max_position_embeddings": 64}) == {
        "original_max_position_embeddings"
    }
