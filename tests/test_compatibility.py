"""Configurations that make two models mergeable beyond tensor names and shapes."""

import json

import pytest

from seme.checkpoint.reader import open_checkpoint
from seme.compatibility import (
    check_comparable,
    demand_same_tensors,
    differences,
    tolerated_differences,
)
from seme.interface import CheckpointMismatchError
from tests.tiny_models import DENSE


@pytest.fixture
def open_pair(make_llama, tmp_path):
    """A pivot and a source; the source's configuration is changed by keyword."""
    pivot, source = make_llama(tmp_path / "pivot", 0), make_llama(tmp_path / "source", 1)

    def opened(both=None, **changes):
        for folder, extra in ((pivot, both or {}), (source, {**(both or {}), **changes})):
            path = folder / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | extra))
        return [open_checkpoint(folder, root=tmp_path) for folder in (pivot, source)]

    return opened


def test_equal_configs_have_no_differences(open_pair):
    pivot, source = open_pair()
    assert tolerated_differences(pivot, [source, source]) == []
    assert differences(pivot, source) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mistral"}, "config.json: model_type: llama expected, mistral found"),
        ({"num_attention_heads": 4}, "config.json: num_attention_heads: 2 expected, 4 found"),
        ({"num_key_value_heads": 2}, "config.json: num_key_value_heads: 1 expected, 2 found"),
        ({"head_dim": 4}, "config.json: head_dim: 8 expected, 4 found"),
    ],
)
def test_different_head_counts_are_refused(open_pair, change, message):
    pivot, source = open_pair(**change)
    with pytest.raises(CheckpointMismatchError, match=message) as caught:
        demand_same_tensors(pivot, [pivot, source])
    assert f"source 1 ({source.path})" in str(caught.value)


def test_missing_head_entries_are_derived(open_pair):
    # width 16 in 2 heads of 8; as many key and value heads as heads
    pivot, source = open_pair(head_dim=None)
    assert differences(pivot, source) == []
    pivot, source = open_pair({"num_key_value_heads": None}, num_key_value_heads=2)
    assert differences(pivot, source) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"rope_theta": 5e5}, "rope_theta: 10000.0 expected, 500000.0 found"),
        ({"rope_parameters": {"rope_theta": 2}}, "rope_theta: 10000.0 expected, 2 found"),
        ({"rope_scaling": {"factor": 8.0}}, "factor: nothing expected, 8.0 found"),
        ({"rope_scaling": {"type": "dynamic"}}, "rope_type: default expected, dynamic found"),
        ({"hidden_act": "gelu"}, "hidden_act: silu expected, gelu found"),
        ({"model_type": None}, "model_type: llama expected, nothing found"),
    ],
)
def test_different_rope_or_activation_is_a_warning(open_pair, change, line):
    pivot, source = open_pair({"rope_parameters": None}, **change)
    assert tolerated_differences(pivot, [source]) == [
        f"source 0 ({source.path}): config.json: {line}"
    ]


def test_old_and_new_rope_entries_are_equal(open_pair):
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    pivot, source = open_pair({**old, "rope_parameters": None})
    path = source.path / "config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if k not in old}
    path.write_text(json.dumps({**config, "rope_parameters": new}))
    assert tolerated_differences(pivot, [open_checkpoint(source.path, root=source.path)]) == []


def test_nested_text_config_is_compared(open_pair):
    nested = {"model_type": "gemma3", "text_config": {"num_attention_heads": 2}}
    pivot, source = open_pair(nested, text_config={"num_attention_heads": 4})
    with pytest.raises(CheckpointMismatchError, match="num_attention_heads: 2 expected, 4"):
        demand_same_tensors(pivot, [source])


@pytest.mark.parametrize("model_type", DENSE)
def test_one_architecture_in_two_depths_is_comparable(model_type, canonical):
    layers = {"n_layer": 3} if model_type == "gpt2" else {"num_hidden_layers": 3}
    types = {"layer_types": ["full_attention"] * 3} if model_type == "gemma3_text" else {}
    check_comparable(canonical(model_type), canonical(model_type, **layers, **types))


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
    pivot, source, settings, difference, canonical
):
    with pytest.raises(ValueError, match=difference):
        check_comparable(canonical(pivot), canonical(source, **settings))


@pytest.mark.parametrize("model_type", ["qwen3", "gemma3_text", "olmo2"])
def test_normed_queries_and_keys_need_equal_head_dims(model_type, canonical):
    sizes = {"head_dim": 20} if model_type != "olmo2" else {"num_attention_heads": 2}
    keys = {"num_key_value_heads": 2} if model_type == "olmo2" else {}
    pivot, source = canonical(model_type), canonical(model_type, **sizes, **keys)
    expected = "heads of 12 dim.* has heads of 20" if keys == {} else "heads of 8 .* of 16"
    with pytest.raises(ValueError, match=f"queries and keys are normed: {expected}"):
        check_comparable(pivot, source)


def test_source_biases_need_a_bias_in_the_pivot(canonical):
    plain, biased = canonical("llama", attention_bias=False), canonical("llama")
    check_comparable(biased, plain)
    with pytest.raises(ValueError, match="q_bias, k_bias, v_bias, o_bias"):
        check_comparable(plain, biased)
