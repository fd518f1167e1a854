"""Configurations of GGUF models: what transformers leaves out is added or refused."""

import pytest
from transformers import AutoTokenizer

from seme.checkpoint.gguf_config import _BLOCKS_OF_27B, outline_gguf, write_tokenizer
from seme.checkpoint.gguf_model import read_gguf
from tests.gguf_files import gguf_model, write_gguf


def outlined(tmp_path, model=None, **options):
    return outline_gguf(read_gguf((write_gguf(tmp_path / "model.gguf", model, **options),)))


def test_config_names_class_and_dtype_and_no_folder(tmp_path):
    outline = outlined(
        tmp_path, kind="Q8_0", more={"general.name": "A", "general.alignment": 32}
    )
    config = outline.config
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "float32"
    assert config["tie_word_embeddings"] is True
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert not {"_name_or_path", "_model_name_or_path", "quantization_config"} & config.keys()
    assert outline.nbytes == 4 * gguf_model().num_parameters()


def test_size_of_heads_is_that_of_the_file(tmp_path):
    assert outlined(tmp_path, gguf_model("qwen3")).config["head_dim"] == 12


def test_softcaps_of_the_file_are_kept(tmp_path):
    more = {"gemma2.attn_logit_softcapping": 40.0, "gemma2.final_logit_softcapping": 20.0}
    config = outlined(tmp_path, gguf_model("gemma2"), more=more).config
    assert (config["attn_logit_softcapping"], config["final_logit_softcapping"]) == (40, 20)


def test_queries_of_gemma_27b_are_scaled_by_width_over_heads(tmp_path, monkeypatch):
    model = gguf_model("gemma2")  # width 32, 4 heads of 12 dimensions
    assert outlined(tmp_path, model).config["query_pre_attn_scalar"] == 12
    monkeypatch.setitem(_BLOCKS_OF_27B, "gemma2", 2)
    assert outlined(tmp_path, model).config["query_pre_attn_scalar"] == 8


@pytest.mark.parametrize("key", ["block_count", "attention.layer_norm_rms_epsilon"])
def test_missing_entry_has_no_default(tmp_path, key):
    with pytest.raises(ValueError, match=rf"model\.gguf has llama\.{key} = None, expected one"):
        outlined(tmp_path, more={f"llama.{key}": None})


def test_more_layers_than_tensors_are_not_built(tmp_path):
    with pytest.raises(ValueError, match=r"block_count = 4000000000, and 20 tensors in all"):
        outlined(tmp_path, more={"llama.block_count": 4_000_000_000})


@pytest.mark.parametrize("heads", [0, 3, 2**31])
def test_impossible_number_of_heads_is_refused(tmp_path, heads):
    with pytest.raises(ValueError, match=r"model\.gguf"):
        outlined(tmp_path, more={"llama.attention.head_count": heads})


def test_tokenizer_that_cannot_be_converted_is_refused(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", more={"tokenizer.ggml.model": "rwkv"})
    with pytest.raises(ValueError, match=r"the tokenizer \(rwkv\) of .*model\.gguf"):
        write_tokenizer(read_gguf((path,)), tmp_path)
    path = write_gguf(tmp_path / "model.gguf", more={"tokenizer.ggml.model": None})
    with pytest.raises(ValueError, match=r"model\.gguf has no tokenizer"):
        write_tokenizer(read_gguf((path,)), tmp_path)


def test_files_beside_the_model_do_not_count(tmp_path):
    path = write_gguf(tmp_path / "in" / "model.gguf")
    (tmp_path / "in" / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    write_tokenizer(read_gguf((path,)), tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("hell")["input_ids"] == [259, 261]
