"""GGUF models converted: every number as transformers loads it, cached, atomic, bounded."""

import json
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from eval.load import load_model, load_tokenizer
from seme.checkpoint import gguf_conversion, gguf_tensors
from seme.checkpoint.gguf_conversion import convert, converted_folder, origin_of
from tests.gguf_files import ARCHITECTURES, TEMPLATE, gguf_model, loaded, write_gguf

_FOLDER = Path(os.environ.get("SEME_GGUF", "/nowhere"))
REAL = [path for path in sorted(_FOLDER.glob("*.gguf")) if path.is_file()]
"""Files of real models, where the environment names a folder of them."""


def bits(tensor):
    return tensor.float().contiguous().view(torch.int32)


def assert_as_in_transformers(path, folder):
    """Assert that a converted folder has the tensors that transformers loads, bit for bit."""
    config = AutoConfig.from_pretrained(folder)
    expected, converted = loaded(path, config), load_file(folder / "model.safetensors")
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    assert converted.keys() == expected.keys() - tied
    assert [
        n for n in converted if not torch.equal(bits(converted[n]), bits(expected[n]))
    ] == []


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_architecture_has_the_tensors_that_transformers_loads(model_type, tmp_path):
    model = gguf_model(model_type, tie_word_embeddings=model_type != "qwen3")
    path = write_gguf(tmp_path / "model.gguf", model)
    convert(path, tmp_path / "folder")
    assert_as_in_transformers(path, tmp_path / "folder")
    with torch.no_grad():
        tokens = torch.arange(3, 40)[None]
        expected = model(tokens).logits
        actual = load_model(tmp_path / "folder", device="cpu")(tokens).logits
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)  # gains: 1 added, taken


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q6_K"])
def test_quantised_tensors_become_float32_as_in_transformers(kind, tmp_path):
    model = gguf_model(hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    path = write_gguf(tmp_path / "model.gguf", model, kind=kind)
    convert(path, tmp_path / "folder")
    assert_as_in_transformers(path, tmp_path / "folder")
    tensors = load_file(tmp_path / "folder" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert origin_of(tmp_path / "folder")["types"] == {"F32": 3, kind: 8}


@pytest.mark.parametrize(("kind", "dtype"), [("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_unquantised_tensors_keep_their_dtype(kind, dtype, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", kind=kind)
    convert(path, tmp_path / "folder")
    assert_as_in_transformers(path, tmp_path / "folder")
    tensors = load_file(tmp_path / "folder" / "model.safetensors")
    assert tensors["model.layers.0.self_attn.q_proj.weight"].dtype == dtype
    assert tensors["model.norm.weight"].dtype == torch.float32
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")


def test_parts_become_one_model(tmp_path):
    model = gguf_model(tie_word_embeddings=False)  # the head is in another part than the first
    convert(write_gguf(tmp_path / "one" / "m.gguf", model), tmp_path / "whole")
    part = write_gguf(tmp_path / "two" / "m.gguf", model, n_parts=3)
    convert(part.with_name("m-00002-of-00003.gguf"), tmp_path / "folder")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "folder" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes()


def test_tokenizer_and_chat_template_are_those_of_the_file(tmp_path):
    path = write_gguf(tmp_path / "model.gguf")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Nonsense"}')
    convert(path, tmp_path / "folder")
    tokenizer = load_tokenizer(tmp_path / "folder")
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.convert_ids_to_tokens(tokenizer("he hell</s>")["input_ids"]) == [
        "he", "Ġhe", "ll", "</s>",
    ]  # fmt: skip
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_values_do_not_depend_on_the_size_of_blocks(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", kind="Q8_0")
    convert(path, tmp_path / "whole")
    monkeypatch.setattr(gguf_tensors, "_BLOCK_ELEMENTS", 33)  # a row, or a head
    convert(path, tmp_path / "rows")
    whole, rows = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "rows"))
    assert rows == whole


def test_cache_holds_one_folder_for_one_content(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf")
    folder = converted_folder((path,))
    path.rename(tmp_path / "renamed.gguf")
    monkeypatch.setattr(gguf_conversion, "_convert", None)  # nothing is converted again
    assert converted_folder((tmp_path / "renamed.gguf",)) == folder
    monkeypatch.undo()
    other = write_gguf(tmp_path / "other.gguf", gguf_model(initializer_range=0.03), kind="F16")
    assert converted_folder((other,)) != folder


def test_two_at_a_time_convert_once(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", gguf_model(num_hidden_layers=1))
    monkeypatch.setenv("SEME_CACHE_DIR", str(tmp_path / "cache"))
    calls, convert_once = [], gguf_conversion._convert

    def count(*arguments):
        calls.append(arguments)
        convert_once(*arguments)

    monkeypatch.setattr(gguf_conversion, "_convert", count)
    threads = [threading.Thread(target=converted_folder, args=((path,),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert [f.name for f in (tmp_path / "cache" / "gguf").iterdir() if f.is_dir()] == [
        converted_folder((path,)).name
    ]


def test_failed_conversion_leaves_no_folder(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf")
    content = path.read_bytes()[:-9]
    monkeypatch.setattr(
        gguf_conversion, "write_tokenizer", lambda *_: path.write_bytes(content)
    )
    with pytest.raises(ValueError, match="has become shorter while being read"):
        convert(path, tmp_path / "folder")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.gguf"]


def test_full_disk_and_existing_folder_are_refused_first(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf")
    with pytest.raises(ValueError, match="already exists"):
        convert(path, tmp_path)
    usage = type("usage", (), {"free": 1_000_000})
    monkeypatch.setattr(gguf_conversion.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        ValueError, match=r"takes 0\.10 GB as safetensors, .* has 0\.00 GB free"
    ):
        convert(path, tmp_path / "folder")


def test_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf")
    monkeypatch.setenv("SEME_CACHE_DIR", str(path))
    with pytest.raises(ValueError, match=r"cannot be written to .*: set SEME_CACHE_DIR"):
        converted_folder((path,))


def test_folder_without_gguf_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no GGUF file, and no folder that holds one"):
        convert(tmp_path, tmp_path / "folder")


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="SEME_GGUF names no folder of GGUF files")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_model_is_as_transformers_loads_it(path, tmp_path):
    convert(path, tmp_path / "folder")
    assert_as_in_transformers(path, tmp_path / "folder")
    own = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    converted = load_tokenizer(tmp_path / "folder")
    for text in ("Hello  world 1234, don't!\n\n\té 日本", "<|im_start|>user\nhi<|im_end|>"):
        assert converted(text)["input_ids"] == own(text)["input_ids"]
    assert converted.chat_template == own.chat_template
    with torch.no_grad():
        tokens = torch.arange(100, 120)[None]
        theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
        ours = load_model(tmp_path / "folder", device="cpu")
        assert torch.equal(ours(tokens).logits, theirs(tokens).logits)
