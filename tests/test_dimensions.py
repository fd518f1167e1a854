"""The sizes of a model."""

import math

import pytest

from seme.architecture.dimensions import canonical_shapes, measure
from seme.architecture.families import family_of
from seme.architecture.parts import Part

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


def test_sizes_are_those_of_the_tensors_where_they_tell():
    sizes = sizes_of(hidden_size=1, head_dim=1, intermediate_size=1)
    assert (sizes.n_tokens, sizes.width, sizes.n_layers) == (160, 32, 2)
    assert (sizes.n_heads, sizes.n_kv_heads, sizes.head_dim) == (4, 2, 12)
    assert (sizes.n_neurons, sizes.norm_eps) == (100, 1e-5)


@pytest.mark.parametrize("said", [{"num_key_value_heads": None}, {"num_key_value_heads": 4}])
def test_every_head_has_keys_of_its_own_unless_the_config_says_less(said):
    assert sizes_of(**said).n_kv_heads == 4


def test_attention_is_scaled_by_the_heads_dimension_but_in_gemma():
    assert sizes_of().attention_scale == 1 / math.sqrt(12)
    gemma = sizes_of(model_type="gemma2", query_pre_attn_scalar=64)
    assert gemma.attention_scale == 1 / 8
    with pytest.raises(ValueError, match="gemma2 model must say query_pre_attn_scalar"):
        sizes_of(model_type="gemma2")


def test_a_mixture_has_the_neurons_its_config_says():
    sizes = sizes_of(model_type="mixtral", num_local_experts=3, intermediate_size=24)
    assert sizes.n_neurons == 24


def test_one_set_of_frequencies_stands_for_all_layers_only_if_they_agree():
    assert sizes_of().rotary == sizes_of().rotary_of(1)
    assert len(sizes_of().rotary) == 6
    both = ["sliding_attention", "full_attention"]
    gemma = sizes_of(model_type="gemma3_text", query_pre_attn_scalar=64, layer_types=both)
    assert gemma.rotary_of(0) != gemma.rotary_of(1)
    with pytest.raises(ValueError, match=r"layers \[1\] differ from layer 0"):
        _ = gemma.rotary


def test_frequencies_that_are_not_known_are_refused_when_they_are_asked_for():
    sizes = sizes_of(rope_scaling={"rope_type": "yarn", "factor": 4.0})
    for ask in (lambda: sizes.rotary, lambda: sizes.rotary_of(1)):
        with pytest.raises(ValueError, match=r"got 'yarn' in this llama model"):
            ask()


def test_a_config_without_a_size_says_which():
    with pytest.raises(
        ValueError, match="must say rms_norm_eps or layer_norm_eps or layer_norm"
    ):
        sizes_of(rms_norm_eps=None)


def test_every_part_has_the_shape_the_sizes_give_it():
    config = {**CONFIG, "model_type": "olmo2"}
    shapes = canonical_shapes(family_of(config), sizes_of())
    assert (shapes[Part.Q], shapes[Part.K], shapes[Part.O]) == ((48, 32), (24, 32), (32, 48))
    assert (shapes[Part.GATE], shapes[Part.DOWN]) == ((100, 32), (32, 100))
    assert (shapes[Part.Q_NORM], shapes[Part.K_NORM]) == ((48,), (24,))
    assert canonical_shapes(family_of(CONFIG), sizes_of())[Part.K_NORM] == (12,)
