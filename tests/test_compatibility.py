"""What makes two models mergeable beside the names and shapes of their tensors."""

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
from tests.disguise import open_canonical
from tests.tiny_models import DENSE, save_tiny


@pytest.fixture
def two(make_llama, tmp_path):
    """A pivot and a source; the source's configuration is changed by keyword."""
    pivot, source = make_llama(tmp_path / "pivot", 0), make_llama(tmp_path / "source", 1)

    def opened(both=None, **changes):
        for folder, extra in ((pivot, both or {}), (source, {**(both or {}), **changes})):
            path = folder / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | extra))
        return [open_checkpoint(folder, root=tmp_path) for folder in (pivot, source)]

    return opened


def test_models_that_agree_raise_no_warning(two):
    pivot, source = two()
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
def test_tensors_of_one_shape_but_of_other_heads_are_refused(two, change, message):
    pivot, source = two(**change)
    with pytest.raises(CheckpointMismatchError, match=message) as caught:
        demand_same_tensors(pivot, [pivot, source])
    assert f"source 1 ({source.path})" in str(caught.value)


def test_heads_that_are_not_stated_follow_from_the_others(two):
    # width 16 in 2 heads of 8; as many key and value heads as heads
    pivot, source = two(head_dim=None)
    assert differences(pivot, source) == []
    pivot, source = two({"num_key_value_heads": None}, num_key_value_heads=2)
    assert differences(pivot, source) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"rope_theta": 5e5}, "rope_theta: 10000.0 expected, 500000.0 found"),
        ({"rope_parameters": {"rope_theta": 2}}, "rope_theta: 10000.0 expected, 2 found"),
        ({"rope_scaling": {"factor": 8.0}}, "factor: nothing expected, 8.0 found"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_type: default expected, yarn found"),
        ({"hidden_act": "gelu"}, "hidden_act: silu expected, gelu found"),
        ({"model_type": None}, "model_type: llama expected, nothing found"),
    ],
)
def test_another_rotary_embedding_or_activation_is_warned_about(two, change, line):
    pivot, source = two({"rope_parameters": None}, **change)
    assert tolerated_differences(pivot, [source]) == [
        f"source 0 ({source.path}): config.json: {line}"
    ]


def test_the_rotary_embedding_reads_alike_in_old_and_new_files(two):
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    pivot, source = two({**old, "rope_parameters": None})
    path = source.path / "config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if k not in old}
    path.write_text(json.dumps({**config, "rope_parameters": new}))
    assert tolerated_differences(pivot, [open_checkpoint(source.path, root=source.path)]) == []


def test_the_language_part_of_a_model_of_text_and_images_is_compared(two):
    nested = {"model_type": "gemma3", "text_config": {"num_attention_heads": 2}}
    pivot, source = two(nested, text_config={"num_attention_heads": 4})
    with pytest.raises(CheckpointMismatchError, match="num_attention_heads: 2 expected, 4"):
        demand_same_tensors(pivot, [source])


@pytest.fixture
def model_of(tmp_path):
    """Save a tiny model and open its canonical view: ``model_of("llama", **settings)``."""
    count = iter(range(9))

    def build(model_type, **settings):
        return open_canonical(save_tiny(tmp_path / f"{next(count)}", model_type, **settings))

    return build


@pytest.mark.parametrize("model_type", DENSE)
def test_sizes_of_one_architecture_are_comparable(model_type, model_of):
    layers = {"n_layer": 3} if model_type == "gpt2" else {"num_hidden_layers": 3}
    types = {"layer_types": ["full_attention"] * 3} if model_type == "gemma3_text" else {}
    check_comparable(model_of(model_type), model_of(model_type, **layers, **types))


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
def test_the_difference_of_two_architectures_is_named(pivot, source, message, model_of):
    with pytest.raises(ValueError, match=message):
        check_comparable(model_of(pivot), model_of(source))


def test_learned_positions_are_no_rotary_ones(model_of):
    pivot, source = model_of("gpt2"), model_of("gpt_neox", hidden_act="gelu_new")
    with pytest.raises(
        ValueError, match=r"positions: the pivot \(gpt2\) has learned, .* has rope"
    ):
        check_comparable(pivot, source)


def test_parallel_blocks_are_not_sequential_ones(model_of):
    pivot, source = model_of("gpt_neox"), model_of("gpt_neox", use_parallel_residual=False)
    with pytest.raises(ValueError, match="has attention and MLP in parallel, the source"):
        check_comparable(pivot, source)


def test_another_activation_is_named(model_of):
    with pytest.raises(
        ValueError, match=r"activation: the pivot \(llama\) has silu, .* has gelu"
    ):
        check_comparable(model_of("llama"), model_of("llama", hidden_act="gelu"))


@pytest.mark.parametrize("model_type", ["qwen3", "gemma3_text", "olmo2"])
def test_heads_under_a_norm_must_be_of_one_size(model_type, model_of):
    sizes = {"head_dim": 20} if model_type != "olmo2" else {"num_attention_heads": 2}
    keys = {"num_key_value_heads": 2} if model_type == "olmo2" else {}
    pivot, source = model_of(model_type), model_of(model_type, **sizes, **keys)
    expected = "heads of 12 dim.* has heads of 20" if keys == {} else "heads of 8 .* of 16"
    with pytest.raises(ValueError, match=f"queries and keys are normed: {expected}"):
        check_comparable(pivot, source)


def test_a_bias_needs_a_place_in_the_pivot_but_not_in_the_source(model_of):
    plain, biased = model_of("llama", attention_bias=False), model_of("llama")
    check_comparable(biased, plain)
    with pytest.raises(
        ValueError, match=r"the source has q_bias, k_bias, v_bias, o_bias, which"
    ):
        check_comparable(plain, biased)
