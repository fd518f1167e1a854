"""LoRA adapters: weights as PEFT merges them, content hashes of several models."""

import json
import threading

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from seme.checkpoint.lora import content_hashes, open_adapter
from seme.checkpoint.opening import open_model
from seme.checkpoint.reader import Checkpoint, open_checkpoint
from seme.checkpoint.safetensors_file import OpenFile
from tests.adapters import opened, pair, refused, write_adapter
from tests.gguf_files import write_gguf

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

Q0 = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def base(tmp_path, make_llama):
    return make_llama(tmp_path / "base", 0)


def trained(base, **options):
    """Save an adapter of random factors with PEFT; return its folder and PEFT's own merge."""
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.add_(torch.randn_like(parameter) / 4)
            elif "magnitude" in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    folder = base.parent / "trained"
    model.save_pretrained(folder)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    return folder, again.merge_and_unload().state_dict()


LINEAR = {"r": 4, "lora_alpha": 3, "target_modules": ["q_proj", "down_proj"]}


@pytest.mark.parametrize(
    "options",
    [
        LINEAR,
        {**LINEAR, "use_rslora": True},
        {
            **LINEAR,
            "rank_pattern": {"layers.1.mlp.down_proj": 2},
            "alpha_pattern": {"q_proj": 9},
        },
        {**LINEAR, "use_dora": True},
        {**LINEAR, "target_modules": ["embed_tokens", "o_proj"]},
        {**LINEAR, "modules_to_save": ["lm_head", "input_layernorm"]},
    ],
)
def test_adapted_weights_equal_peft(base, options):
    folder, expected = trained(base, **options)
    model, untouched = opened(folder), open_checkpoint(base, root=base)
    assert model.names == untouched.names
    for name in model.names:
        assert torch.allclose(model.read(name), expected[name], rtol=1e-5, atol=1e-6), name
    assert any(not torch.equal(model.read(n), untouched.read(n)) for n in model.names)


def test_transposed_gpt2_weights_equal_peft(tmp_path):
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=64, n_positions=8)
    config.bos_token_id = config.eos_token_id = 0
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    options = {"r": 2, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    folder, expected = trained(tmp_path / "base", **options)
    model = opened(folder)
    for name in model.names:
        assert torch.allclose(model.read(name), expected[name], rtol=1e-5, atol=1e-6), name


def test_adapter_matches_weights_without_the_model_prefix(base):
    tensors = load_file(base / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(bare, base / "model.safetensors")
    model = opened(write_adapter(base, pair()))
    name = Q0.removeprefix("model.")
    assert torch.allclose(model.read(name), bare[name] + 6.0)  # 6 / 2 times 1 + 1


def test_specs_and_bytes_match_what_is_read(base):
    tensors = load_file(base / "model.safetensors")
    save_file({n: t.bfloat16() for n, t in tensors.items()}, base / "model.safetensors")
    norm = {"base_model.model.model.norm.weight": torch.ones(16)}
    model = opened(write_adapter(base, pair() | norm))
    for name in model.names:
        tensor = model.read(name)
        assert (tensor.dtype, tuple(tensor.shape)) == (model.dtype(name), model.shape(name))
    n_base = sum(tensor.numel() for tensor in tensors.values()) - 16
    assert model.bytes_read == model.nbytes == 2 * n_base + 4 * (16 + 2 * 2 * 16)
    assert (model.dtype(Q0), model.dtype("model.norm.weight")) == (torch.float32, torch.float32)


def test_partial_read_equals_a_slice_of_the_whole(base):
    options = {**LINEAR, "use_dora": True, "modules_to_save": ["lm_head"]}
    folder, _ = trained(base, **options)
    model, expected = opened(folder), {}
    for name in model.names:
        expected[name] = model.read(name).flatten()
    before = model.bytes_read
    for name, whole in expected.items():
        tensor = model.opened(name)
        piece = tensor.read(5, 12)
        assert (piece.dtype, piece.tolist()) == (model.dtype(name), whole[5:12].tolist()), name
        assert torch.equal(tensor.read(len(whole) - 3, len(whole)), whole[-3:]), name
    assert model.bytes_read > before


def test_opening_an_adapter_of_a_tied_base_reads_no_tensors(tmp_path, make_llama, monkeypatch):
    base = make_llama(tmp_path / "base", 0, tie_word_embeddings=True)
    tensors = load_file(base / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    save_file({**tensors, "lm_head.weight": head}, base / "model.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(OpenFile, "read_into", None)
        model = opened(write_adapter(base, pair()))
        assert model.bytes_read == 0
    assert "lm_head.weight" not in model.names


def test_base_is_given_or_named_in_the_adapter_config(base, make_llama):
    other = make_llama(base.parent / "other", 5)
    folder = write_adapter(base, pair())
    assert opened(folder).base.path == base
    assert opened(folder, base="other").base.path == other
    refused(write_adapter(base, pair(), base_model_name_or_path=None), "does not name its base")


def test_an_adapter_may_not_name_a_file_as_its_base(base, tmp_path):
    (tmp_path / "secret").write_text("x")
    folder = write_adapter(base, pair(), base_model_name_or_path=str(tmp_path / "secret"))
    refused(folder, "names the file .*secret' as its base in adapter_config.json")


def test_an_adapter_may_name_a_gguf_file_as_its_base(base, tmp_path):
    path = write_gguf(tmp_path / "base.gguf")
    plain = open_model(str(path), root=tmp_path)
    outputs, inputs = plain.shape(Q0)
    factors = pair(inputs=inputs, outputs=outputs)  # ones of rank 2, three times
    adapter = opened(write_adapter(base, factors, base_model_name_or_path=str(path)))
    assert adapter.names == plain.names
    torch.testing.assert_close(adapter.read(Q0), plain.read(Q0) + 6)


def test_missing_base_names_the_adapter(base):
    folder = write_adapter(base, pair(), base_model_name_or_path="./gone")
    error = refused(folder, r"no model folder at .*gone")
    assert error.__notes__ == [f"while opening the base of the adapter {folder}"]


@pytest.mark.parametrize(
    ("entry", "value"),
    [("base_model_name_or_path", "x" * 10_000), ("revision", [[]] * 10_000)],
)
def test_a_hostile_base_is_refused_in_a_short_message(base, entry, value):
    folder = write_adapter(base, pair(), **{entry: value})
    error = refused(folder, r"no model folder at|Hub ids only")
    assert len(str(error)) < 600


def test_content_hash_depends_on_base_factors_and_scaling_only(base):
    def hashed(tensors=None, **config):
        return opened(write_adapter(base, tensors or pair(), **config)).content_hash()

    first = hashed()
    assert hashed(lora_dropout=0.5, peft_version="1") == first
    assert hashed(lora_alpha=7) != first
    assert hashed({name: tensor * 2 for name, tensor in pair().items()}) != first
    assert hashed(base_model_name_or_path=str(base)) == first
    save_file(
        {n: t + 1 for n, t in load_file(base / "model.safetensors").items()},
        base / "model.safetensors",
    )
    assert hashed() != first


def test_an_adapter_of_a_quantised_base_is_refused(base):
    tensors = load_file(base / "model.safetensors")
    packed = {**tensors, Q0: torch.ones(8, 16, dtype=torch.uint8)}
    save_file(packed, base / "model.safetensors")
    error = refused(write_adapter(base, pair()), rf"quantised: {Q0} .* it was quantised from")
    assert error.__notes__ == [
        f"while opening the base of the adapter {base.parent / 'adapter'}"
    ]


def test_non_adapter_and_pickled_folders_are_refused(base):
    refused(base, r"has no adapter_config.json: it is not a PEFT adapter")
    folder = write_adapter(base, pair())
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    refused(folder, "has no adapter_model.safetensors: .*safe_serialization=True")
    (folder / "adapter_config.json").write_text("[]")
    refused(folder, r"must hold a JSON object, got \[\]")
    (folder / "adapter_config.json").write_text("{")
    refused(folder, "adapter_config.json cannot be parsed")


def test_config_revision_applies_to_the_base_in_the_config(base):
    folder = write_adapter(base, pair(), revision="main")
    refused(folder, "revision is for Hub ids only, got 'main'")
    assert opened(folder, base=base).base.path == base


def toy_model(root, value):
    folder = root / f"m{value}"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "toy"}')
    save_file({"a.weight": torch.full((4, 4), float(value))}, folder / "model.safetensors")
    return open_checkpoint(folder, root=root)


def toy_adapter(base, value):
    folder = base.path.parent / f"lora{value}"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": value}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    factors = {
        "base_model.model.a.lora_A.weight": torch.ones(1, 4),
        "base_model.model.a.lora_B.weight": torch.ones(4, 1),
    }
    save_file(factors, folder / "adapter_model.safetensors")
    return open_adapter(folder, base=base.path, root=base.path.parent)


def test_content_hashes_are_in_order_and_equal_single_hashes(tmp_path):
    plain = [toy_model(tmp_path, value) for value in range(6)]
    mixed = [plain[3], toy_adapter(plain[3], 1), *plain, toy_adapter(plain[3], 2), plain[0]]
    expected = [one.content_hash() for one in mixed]
    assert content_hashes(mixed) == expected
    assert len(set(expected)) == 8


def test_content_hashes_of_no_models_are_empty():
    assert content_hashes([]) == []


def test_repeated_folder_is_hashed_once(tmp_path, monkeypatch):
    one = toy_model(tmp_path, 1)
    again = open_checkpoint(one.path, root=tmp_path)
    computed, compute = [], Checkpoint._hash_of_tensors
    monkeypatch.setattr(
        Checkpoint, "_hash_of_tensors", lambda self: computed.append(self.path) or compute(self)
    )
    content_hashes([one, again, toy_adapter(one, 1), toy_adapter(again, 2)])
    assert computed == [one.path]


def test_models_are_hashed_in_parallel(tmp_path, monkeypatch):
    together, compute = threading.Barrier(3, timeout=10), Checkpoint._hash_of_tensors
    monkeypatch.setattr(
        Checkpoint, "_hash_of_tensors", lambda self: together.wait() >= 0 and compute(self)
    )
    assert len(content_hashes([toy_model(tmp_path, value) for value in range(3)])) == 3


def test_truncated_file_is_named_while_hashing(tmp_path):
    models = [toy_model(tmp_path, value) for value in range(3)]
    (models[1].path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"m1/model\.safetensors has become shorter"):
        content_hashes(models)
