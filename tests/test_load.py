"""Loading a model for scoring: what its folder says of how to load it is not done."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from eval.load import _warn_of_slow, load_model, load_tokenizer
from tests.conftest import TINY

HOSTILE = {
    "_attn_implementation": "someone/kernel",
    "attn_implementation": "someone/kernel",
    "_experts_implementation": "someone/kernel",
    "transformers_weights": "../other/model.safetensors",
    "fusion_config": {"fuse": True},
}


@pytest.fixture
def folder(tmp_path, make_llama):
    return make_llama(tmp_path / "model", 0)


@pytest.fixture
def asked(monkeypatch):
    """Kernels and connections that are asked for."""
    asked = []
    for name in (
        "transformers.modeling_utils.lazy_import_flash_attention",
        "socket.socket.connect",
        "socket.getaddrinfo",
    ):
        monkeypatch.setattr(name, lambda *arguments, **_: asked.append(arguments))
    return asked


def edit(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_attention_is_chosen_here_and_nothing_is_fetched(folder, asked):
    expected = load_model(folder, device="cpu")
    edit(folder, **HOSTILE)
    model = load_model(folder, device="cpu")
    assert asked == []
    assert model.config._attn_implementation == expected.config._attn_implementation == "sdpa"
    for weight, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(weight, other)


def test_the_stub_records_what_transformers_asks_for(asked):
    config = LlamaConfig(**TINY)
    config._attn_implementation = "someone/kernel"
    LlamaForCausalLM(config)
    assert set(asked) == {("someone/kernel",)}


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"vocab_size": 10**9}, "describes a model of .* parameters, but all weights together"),
        (
            {"hidden_size": 10**12},
            "cannot build the model that config.json describes|describes",
        ),
        ({"hidden_size": "x"}, r"config\.json cannot be read by transformers"),
        ({"model_type": "unheard-of"}, r"config\.json cannot be read by transformers"),
    ],
)
def test_configurations_of_other_models_are_refused_before_memory_is_taken(
    folder, entries, match
):
    edit(folder, **entries)
    with pytest.raises(ValueError, match=match):
        load_model(folder, device="cpu")


def test_a_folder_with_an_adapter_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds adapter_config\.json, an adapter that trans"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("content", ["[1]", "{", '{"tokenizer_class": "TokenizersBackend"}'])
def test_a_damaged_tokenizer_is_an_error_with_its_folder(folder, content):
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(
        ValueError, match=rf"the tokenizer in {folder} cannot be read"
    ) as caught:
        load_tokenizer(folder)
    assert len(str(caught.value)) < 500 + len(str(folder))


@pytest.mark.parametrize(
    ("dtype", "capabilities", "n_warnings"),
    [
        ("bfloat16", {"avx512_bf16": False, "amx_bf16": False}, 1),
        ("float16", {"avx512_fp16": False, "amx_fp16": False}, 1),
        ("bfloat16", {"avx512_bf16": False, "amx_bf16": True}, 0),
        ("bfloat16", {"architecture": "aarch64"}, 0),
        ("float32", {"avx512_bf16": False, "amx_bf16": False}, 0),
    ],
)
def test_a_precision_that_the_processor_lacks_is_said_once(
    folder, monkeypatch, caplog, dtype, capabilities, n_warnings
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    _warn_of_slow.cache_clear()
    for _ in range(2):
        load_model(folder, device="cpu", dtype=dtype)
    said = [
        record.getMessage() for record in caplog.records if "suite.dtype" in record.getMessage()
    ]
    assert len(said) == n_warnings
    assert all(f"no instructions for {dtype}" in line for line in said)
    _warn_of_slow.cache_clear()
