"""Architecture tables, and the entries of config.json that change them."""

import re

import pytest

from seme.architecture.families import count, family_of, setting
from tests.tiny_models import DENSE, MIXTURES

LAYERS = {"num_hidden_layers": 2}
SUPPORTED = sorted({**DENSE, **MIXTURES})


@pytest.mark.parametrize("model_type", ["bert", None])
def test_unknown_model_type_lists_the_supported_ones(model_type):
    message = re.escape(f"{SUPPORTED}, got '{model_type}'")
    with pytest.raises(ValueError, match=message):
        family_of({"model_type": model_type, **LAYERS})


def test_nested_text_config_is_refused():
    with pytest.raises(ValueError, match=r"gemma3 model nests .* text_config"):
        family_of({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}})


@pytest.mark.parametrize(
    "scale", [{"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}]
)
def test_unsupported_gpt2_attention_scaling_is_refused(scale):
    config = {"model_type": "gpt2", "n_layer": 2}
    with pytest.raises(ValueError, match=r"gpt2 .*scale_attn_weights: true .*layer_idx: false"):
        family_of({**config, **scale})
    defaults = {"scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True}
    assert family_of({**config, **defaults}).n_layers == 2


def test_config_sets_parallel_blocks_and_tied_head():
    neox = {"model_type": "gpt_neox", **LAYERS}
    assert family_of(neox).parallel
    assert not family_of({**neox, "use_parallel_residual": False}).parallel
    assert family_of({**neox, "tie_word_embeddings": True}).tied


@pytest.mark.parametrize("model_type", DENSE)
def test_head_is_tied_by_default_only_in_gemma_and_gpt2(model_type):
    family = family_of({"model_type": model_type, **LAYERS})
    assert family.tied == (model_type in ("gemma2", "gemma3_text", "gpt2"))


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_only_mixtures_require_sources_in_the_pivot_frame(model_type):
    family = family_of({"model_type": model_type, "num_experts": 3, **LAYERS})
    assert (family.same_frame_only is not None) == (model_type in MIXTURES)
    assert family.n_experts == (3 if model_type in MIXTURES else 0)


def test_families_differ_from_llama_as_published():
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


def test_setting_takes_the_first_key_that_is_not_null():
    assert setting({"a": None, "b": 2, "c": 3}, "a", "b", "c") == 2
    with pytest.raises(ValueError, match=r"a or b.*\['a', 'model_type'\]"):
        setting({"model_type": "llama", "a": None}, "a", "b")


@pytest.mark.parametrize("number", [0, -1, 2.0, "2", True])
def test_count_must_be_a_positive_integer(number):
    with pytest.raises(ValueError, match=rf"integer of at least 1 for n_layer, got {number!r}"):
        count({"n_layer": number}, "n_layer")


@pytest.mark.parametrize("entries", [{}, {"text_config": {"a": 1}}])
def test_a_long_model_type_is_cut_in_the_message(entries):
    with pytest.raises(ValueError, match="model") as caught:
        family_of({"model_type": "x" * 5000, **entries})
    assert len(str(caught.value)) < 600
