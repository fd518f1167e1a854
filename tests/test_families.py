"""The tables of the architectures, and what a configuration says about them."""

import pytest

from seme.architecture.families import count, family_of, readout_of, setting
from tests.tiny_models import DENSE, MIXTURES

LAYERS = {"num_hidden_layers": 2}
SUPPORTED = sorted({**DENSE, **MIXTURES})


@pytest.mark.parametrize("model_type", ["bert", None])
def test_an_unknown_architecture_is_refused_with_the_supported_ones_sorted(model_type):
    with pytest.raises(
        ValueError, match=r"\['gemma2', 'gemma3_text', .*'qwen3_moe'\], got"
    ) as e:
        family_of({"model_type": model_type, **LAYERS})
    assert str(SUPPORTED) in str(e.value)


def test_a_language_model_nested_in_a_larger_one_is_to_be_saved_alone():
    with pytest.raises(
        ValueError, match=r"gemma3 model nests .* text_config: save that part al"
    ):
        family_of({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}})


@pytest.mark.parametrize(
    "scale", [{"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}]
)
def test_attention_scaled_by_depth_or_not_at_all_is_refused(scale):
    config = {"model_type": "gpt2", "n_layer": 2}
    with pytest.raises(ValueError, match=r"gpt2 .*scale_attn_weights: true .*layer_idx: false"):
        family_of({**config, **scale})
    said = {"scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True}
    assert family_of({**config, **said}).n_layers == 2


def test_the_config_says_whether_blocks_are_parallel_and_the_head_is_tied():
    neox = {"model_type": "gpt_neox", **LAYERS}
    assert family_of(neox).parallel
    assert not family_of({**neox, "use_parallel_residual": False}).parallel
    assert family_of({**neox, "tie_word_embeddings": True}).tied


@pytest.mark.parametrize("model_type", DENSE)
def test_a_config_that_does_not_say_is_tied_only_in_gemma_and_gpt2(model_type):
    family = family_of({"model_type": model_type, **LAYERS})
    assert family.tied == (model_type in ("gemma2", "gemma3_text", "gpt2"))


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_only_the_sources_of_a_mixture_must_stand_in_its_frame(model_type):
    family = family_of({"model_type": model_type, "num_experts": 3, **LAYERS})
    assert (family.same_frame_only is not None) == (model_type in MIXTURES)
    assert family.n_experts == (3 if model_type in MIXTURES else 0)


def test_what_differs_from_llama_stands_in_the_table():
    families = {m: family_of({"model_type": m, "num_experts": 3, **LAYERS}) for m in SUPPORTED}
    gemmas = ["gemma2", "gemma3_text"]
    assert [m for m in SUPPORTED if families[m].norm == "layer"] == ["gpt2", "gpt_neox"]
    assert [m for m in SUPPORTED if not families[m].gated] == ["gpt2", "gpt_neox"]
    assert [m for m in SUPPORTED if families[m].gain_offset == 1.0] == gemmas
    assert [m for m in SUPPORTED if families[m].scaled_embedding] == gemmas
    assert [m for m in SUPPORTED if families[m].positions == "learned"] == ["gpt2"]
    heads = ["gemma3_text", "qwen3", "qwen3_moe"]
    assert [m for m in SUPPORTED if families[m].qk_norm == "head"] == heads
    assert [m for m in SUPPORTED if families[m].qk_norm == "all"] == ["olmo2"]


def test_a_missing_or_tied_head_is_the_embedding():
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    assert readout_of({}, names).tied
    assert readout_of({}, names).head == "model.embed_tokens.weight"
    assert readout_of({"tie_word_embeddings": True}, [*names, "lm_head.weight"]).tied
    assert readout_of({}, [*names, "lm_head.weight"]).head == "lm_head.weight"


def test_gemma_stores_its_gain_less_one():
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    assert readout_of({"model_type": "gemma2"}, names).gain_offset == 1.0
    assert readout_of({"model_type": "llama"}, names).gain_offset == 0.0


def test_a_head_that_cannot_be_found_is_an_error_with_the_names_looked_for():
    with pytest.raises(ValueError, match=r"'model.norm.weight'.*model_type 'bert'.*'a.weight'"):
        readout_of({"model_type": "bert"}, ["b.weight", "a.weight"])


def test_a_setting_goes_by_the_first_name_that_is_not_null():
    assert setting({"a": None, "b": 2, "c": 3}, "a", "b", "c") == 2
    with pytest.raises(
        ValueError, match=r"llama model must say a or b, got only \['a', 'model"
    ):
        setting({"model_type": "llama", "a": None}, "a", "b")


@pytest.mark.parametrize("number", [0, -1, 2.0, "2", True])
def test_a_count_that_is_no_positive_integer_is_shown(number):
    with pytest.raises(ValueError, match=rf"integer of at least 1 for n_layer, got {number!r}"):
        count({"n_layer": number}, "n_layer")
