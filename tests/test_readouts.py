"""LM head and final norm of a model: names, ties, gains, and what no name is known for."""

import pytest

from seme.architecture.readouts import readout_of


def test_missing_or_tied_lm_head_is_the_embedding():
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    assert readout_of({}, names).tied
    assert readout_of({}, names).head == "model.embed_tokens.weight"
    assert readout_of({"tie_word_embeddings": True}, [*names, "lm_head.weight"]).tied
    assert readout_of({}, [*names, "lm_head.weight"]).head == "lm_head.weight"


def test_gemma_gain_has_offset_one():
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    assert readout_of({"model_type": "gemma2"}, names).gain_offset == 1.0
    assert readout_of({"model_type": "llama"}, names).gain_offset == 0.0


def test_missing_lm_head_names_the_expected_tensors():
    with pytest.raises(ValueError, match=r"'model.norm.weight'.*model_type 'bert'.*'a.weight'"):
        readout_of({"model_type": "bert"}, ["b.weight", "a.weight"])
