"""Architectures a source may have, for a given pivot."""

import pytest

from seme.alignment.architectures import check_comparable
from tests.tiny_models import DENSE


@pytest.mark.parametrize("model_type", DENSE)
def test_one_architecture_in_two_depths_is_comparable(model_type, anatomy):
    layers = {"n_layer": 3} if model_type == "gpt2" else {"num_hidden_layers": 3}
    types = {"layer_types": ["full_attention"] * 3} if model_type == "gemma3_text" else {}
    check_comparable(anatomy(model_type), anatomy(model_type, **layers, **types))


@pytest.mark.parametrize(
    ("pivot", "source", "settings", "difference"),
    [
        ("llama", "gpt2", {}, r"^norm: .*llama.* rms, .*gpt2.* layer"),
        ("llama", "gemma2", {}, "attention_norm, mlp_norm, .*attention_post_norm"),
        ("qwen2", "qwen3", {}, "norm of queries and keys: .*qwen2.* none, .* head"),
        ("gpt2", "gpt_neox", {"hidden_act": "gelu_new"}, "positions: .*learned, .* rope"),
        ("gpt_neox", "gpt_neox", {"use_parallel_residual": False}, "MLP in parallel, "),
        ("llama", "llama", {"hidden_act": "gelu"}, "activation: .*llama.* silu, .* gelu"),
    ],
)
def test_incomparable_architectures_are_refused_with_the_difference(
    pivot, source, settings, difference, anatomy
):
    with pytest.raises(ValueError, match=difference):
        check_comparable(anatomy(pivot), anatomy(source, **settings))


@pytest.mark.parametrize("model_type", ["qwen3", "gemma3_text", "olmo2"])
def test_normed_queries_and_keys_need_equal_head_dims(model_type, anatomy):
    sizes = {"head_dim": 20} if model_type != "olmo2" else {"num_attention_heads": 2}
    keys = {"num_key_value_heads": 2} if model_type == "olmo2" else {}
    pivot, source = anatomy(model_type), anatomy(model_type, **sizes, **keys)
    expected = "heads of 12 dim.* has heads of 20" if keys == {} else "heads of 8 .* of 16"
    with pytest.raises(ValueError, match=f"queries and keys are normed: {expected}"):
        check_comparable(pivot, source)


def test_source_biases_need_a_bias_in_the_pivot(anatomy):
    plain, biased = anatomy("llama", attention_bias=False), anatomy("llama")
    check_comparable(biased, plain)
    with pytest.raises(ValueError, match="q_bias, k_bias, v_bias, o_bias"):
        check_comparable(plain, biased)
