"""Norm gains and biases folded into the layers reading them: logits unchanged."""

import pytest
import torch

from seme.architecture.folding import FOLDABLE, FoldedModel, FoldedWeights
from seme.architecture.parts import Part, Place
from tests.disguise import assert_same_logits, folded, open_canonical, written
from tests.seme_merges import bits, change_tensors
from tests.tiny_models import DENSE, save_tiny

FINAL = Place(Part.FINAL_NORM)


@pytest.mark.parametrize("model_type", DENSE)
def test_folded_model_keeps_its_logits(model_type, tmp_path):
    model = save_tiny(tmp_path / "model", model_type)
    plain = folded(model)
    assert_same_logits(written(plain, tmp_path / "folded"), model)
    gains = [place for place in plain.model.canonical.places if place.part in FOLDABLE]
    assert all(plain.model.read(place).eq(1).all() for place in gains)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
def test_tied_model_can_keep_its_final_gain(model_type, tmp_path):
    model = save_tiny(tmp_path / "model", model_type, tie_word_embeddings=True)
    plain = folded(model, tied=True)
    assert_same_logits(written(plain, tmp_path / "folded"), model)
    assert plain.tied
    assert plain.names == open_canonical(model).weights.names
    assert plain.config == open_canonical(model).weights.config


def test_untied_head_is_a_separate_tensor_and_config_entry(tmp_path):
    model = save_tiny(tmp_path / "model", "gemma2", dtype=torch.bfloat16)
    plain = folded(model)
    assert not plain.tied
    assert plain.config["tie_word_embeddings"] is False
    assert set(plain.names) - set(open_canonical(model).weights.names) == {"lm_head.weight"}
    assert plain.shape("lm_head.weight") == (160, 32)
    assert plain.dtype("lm_head.weight") == torch.bfloat16
    assert plain.places_of("lm_head.weight") == (Place(Part.HEAD),)
    head = plain.model.canonical.read(Place(Part.HEAD)) * plain.model.canonical.read(FINAL)
    assert torch.equal(plain.read("lm_head.weight"), head)


def test_empty_norm_set_folds_nothing(tmp_path):
    model = save_tiny(tmp_path / "model", "gpt2")
    plain = FoldedWeights(FoldedModel(open_canonical(model), norms=frozenset()), untied=False)
    assert bits(written(plain, tmp_path / "copy")) == bits(model)
    assert plain.path == model


def test_gain_is_folded_only_into_the_layers_reading_it(tmp_path):
    plain = folded(save_tiny(tmp_path / "model", "llama")).model
    gain = plain.canonical.read(Place(Part.MLP_NORM, 1))
    for part in (Part.GATE, Part.UP):
        place = Place(part, 1)
        assert torch.equal(plain.read(place), plain.canonical.read(place) * gain)
    for part in (Part.DOWN, Part.O, Part.UP_BIAS, Part.O_BIAS):
        assert torch.equal(plain.read(Place(part, 1)), plain.canonical.read(Place(part, 1)))


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox"])
def test_norm_bias_is_folded_into_the_biases_of_its_readers(model_type, tmp_path):
    plain = folded(save_tiny(tmp_path / "model", model_type)).model
    read = plain.canonical.read
    bias = read(Place(Part.ATTENTION_NORM_BIAS, 0))
    expected = read(Place(Part.K_BIAS, 0)) + read(Place(Part.K, 0)) @ bias
    assert torch.equal(plain.read(Place(Part.K_BIAS, 0)), expected)
    assert plain.read(Place(Part.ATTENTION_NORM_BIAS, 0)).tolist() == [0.0] * 32
    final = read(Place(Part.FINAL_NORM_BIAS)) / read(FINAL)
    assert torch.equal(plain.read(Place(Part.FINAL_NORM_BIAS)), final)


@pytest.mark.parametrize("model_type", ["llama", "olmo2", "gemma2", "gpt2", "gpt_neox"])
def test_changes_is_true_exactly_for_folded_parts(model_type, tmp_path):
    plain = folded(save_tiny(tmp_path / "model", model_type)).model
    for place in plain.canonical.places:
        same = torch.equal(plain.read(place), plain.canonical.read(place))
        assert plain.changes(place) is not same, place


def test_zero_final_gain_with_a_bias_is_refused(tmp_path):
    model = save_tiny(tmp_path / "model", "gpt2")
    gain, bias = torch.ones(32), torch.ones(32)
    gain[3] = 0
    change_tensors(model, **{"transformer.ln_f.weight": gain, "transformer.ln_f.bias": bias})
    with pytest.raises(ValueError, match=r"gain of 0 .* bias is not 0"):
        folded(model).model.read(Place(Part.FINAL_NORM_BIAS))
    bias[3] = 0
    change_tensors(model, **{"transformer.ln_f.bias": bias})
    assert torch.equal(folded(model).model.read(Place(Part.FINAL_NORM_BIAS)), bias)


def test_norm_bias_without_a_reader_bias_is_refused(tmp_path):
    model = open_canonical(save_tiny(tmp_path / "model", "gpt_neox", attention_bias=False))
    with pytest.raises(ValueError, match="layer 0 has attention_norm_bias but no q_bias"):
        FoldedModel(model, norms=FOLDABLE)
    FoldedModel(model, norms=frozenset())


def test_constants_keep_their_dtype(tmp_path):
    model, name = save_tiny(tmp_path / "model", "gpt2"), "transformer.h.1.attn.masked_bias"
    change_tensors(model, **{name: torch.tensor(-1e4, dtype=torch.float16)})
    assert folded(model).read(name).dtype == torch.float16
