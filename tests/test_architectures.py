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
    ("pivot", "source", "message"),
    [
        ("llama", "gpt2", r"^norm: the pivot \(llama\) has rms, the source \(gpt2\) has layer"),
        (
            "llama",
            "gemma2",
            "has attention_norm, mlp_norm, the source .gemma2. has attention_n",
        ),
        ("qwen2", "qwen3", "norm of queries and keys: the pivot .qwen2. has none, .* has head"),
    ],
)
def test_incomparable_architectures_are_refused_with_the_difference(
    pivot, source, message, anatomy
):
    with pytest.raises(ValueError, match=message):
        check_comparable(anatomy(pivot), anatomy(source))


def test_learned_and_rotary_positions_are_not_comparable(anatomy):
    pivot, source = anatomy("gpt2"), anatomy("gpt_neox", hidden_act="gelu_new")
    with pytest.raises(ValueError, match=r"positions: .*gpt2.* learned, .* rope"):
        check_comparable(pivot, source)


def test_parallel_and_sequential_blocks_are_not_comparable(anatomy):
    pivot, source = anatomy("gpt_neox"), anatomy("gpt_neox", use_parallel_residual=False)
    with pytest.raises(ValueError, match="has attention and MLP in parallel, the source"):
        check_comparable(pivot, source)


def test_different_activations_are_not_comparable(anatomy):
    with pytest.raises(ValueError, match=r"activation: .*llama.* silu, .* gelu"):
        check_comparable(anatomy("llama"), anatomy("llama", hidden_act="gelu"))


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
