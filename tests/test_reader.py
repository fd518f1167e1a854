"""Reading: what a checkpoint gives, which folders are refused, what its hash depends on."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seme.checkpoint.reader import Checkpoint, open_checkpoint
from seme.compatibility import reasons_to_copy

VALUES = {
    "b.weight": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "a.weight": torch.tensor([1.5, -2.5]),
    "steps": torch.tensor(7),
}


@pytest.fixture
def folder(tmp_path):
    return model_folder(tmp_path / "model", VALUES)


def model_folder(path, tensors, config=None):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config or {"model_type": "toy"}))
    save_file(tensors, path / "model.safetensors")
    return path


def shard(folder, **places):
    """Spread the tensors of a single-file model over shards named as given."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for file, names in places.items():
        save_file({n: tensors[n] for n in names}, folder / f"{file}.safetensors")
    placed = {n: f"{file}.safetensors" for file, names in places.items() for n in names}
    write_index(folder, placed)
    return folder


def write_index(folder, placed):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


def write_header(folder, header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    whole = len(text).to_bytes(8, "little") + text + body
    (folder / "model.safetensors").write_bytes(whole)


def entry(begin, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def opened(folder):
    return open_checkpoint(folder, root=folder.parent)


def refused(folder, match):
    with pytest.raises(ValueError, match=match):
        opened(folder)


def test_a_single_file_gives_back_what_safetensors_saved(folder):
    model = opened(folder)
    assert model.names == ("a.weight", "b.weight", "steps")
    assert (model.shape("b.weight"), model.dtype("b.weight")) == ((2, 3), torch.bfloat16)
    for name, expected in VALUES.items():
        assert model.read(name).dtype == expected.dtype
        assert torch.equal(model.read(name), expected)


def test_bytes_are_counted_when_read_and_not_when_opened(folder):
    model = opened(folder)
    assert (model.nbytes, model.bytes_read) == (12 + 8 + 8, 0)
    model.read("b.weight")
    assert model.bytes_read == 12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int8, torch.bool])
def test_every_dtype_comes_back_as_it_is(tmp_path, dtype):
    expected = torch.tensor([[1, 0], [1, 1]]).to(dtype)
    model = opened(model_folder(tmp_path / "m", {"x": expected, "empty": torch.zeros(0, 3)}))
    assert torch.equal(model.read("x"), expected)
    assert model.read("x").dtype == dtype
    assert model.read("empty").shape == (0, 3)


def test_a_tensor_read_twice_is_two_tensors(folder):
    model = opened(folder)
    model.read("a.weight").zero_()
    assert model.read("a.weight").tolist() == [1.5, -2.5]


def test_relative_locations_start_at_the_root(folder):
    assert open_checkpoint("model", root=folder.parent).path == folder


def test_a_sharded_model_reads_like_a_single_file(folder):
    model = opened(shard(folder, one=["b.weight", "steps"], two=["a.weight"]))
    assert model.names == ("a.weight", "b.weight", "steps")
    assert all(torch.equal(model.read(name), value) for name, value in VALUES.items())


def test_a_folder_without_configuration_is_refused(folder):
    (folder / "config.json").unlink()
    refused(folder, r"has no config\.json")


def test_a_folder_without_weights_says_which_files_are_expected(folder):
    (folder / "model.safetensors").unlink()
    refused(
        folder, r"no weights: expected model\.safetensors or model\.safetensors\.index\.json"
    )


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickled_weights_are_refused_with_the_command_that_converts_them(folder, file):
    (folder / "model.safetensors").rename(folder / file)
    refused(folder, rf"pickled weights \({file}\)(?s:.*)save_pretrained\(.*safe_serialization")


def test_weights_beside_a_stale_index_are_refused(folder):
    write_index(folder, {"a.weight": "one.safetensors"})
    refused(folder, r"both model\.safetensors and model\.safetensors\.index\.json.*stale")


def test_a_shard_that_is_absent_is_named(folder):
    shard(folder, one=["a.weight"], two=["b.weight", "steps"])
    (folder / "two.safetensors").unlink()
    refused(folder, r"names two\.safetensors, which is absent")


@pytest.mark.parametrize(
    "outside", ["../x.safetensors", "/x.safetensors", "..\\x", "a/x", ".."]
)
def test_an_index_cannot_leave_the_model_folder(folder, outside):
    (folder / "model.safetensors").rename(folder.parent / "x.safetensors")
    write_index(folder, dict.fromkeys(VALUES, outside))
    refused(folder, "index paths are confined to the model folder")


def test_an_index_that_disagrees_with_the_headers_is_refused(folder):
    shard(folder, one=["a.weight"], two=["b.weight", "steps"])
    swapped = {"a.weight": "two.safetensors", "b.weight": "one.safetensors"}
    write_index(folder, swapped)
    refused(folder, r"header of one\.safetensors.*disagree about a\.weight, b\.weight")


def test_a_truncated_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, "truncated or damaged")


LIES = {
    "not JSON": (b"nonsense", b"", "cannot be parsed"),
    "deeply nested": (b"[" * 100_000, b"", "cannot be parsed"),
    "a list": (b"[]", b"", "must be a JSON object"),
    "a name twice": (b'{"x":1,"x":2}', b"", "stands twice"),
    "no offsets": ({"x": {"dtype": "F32", "shape": [1]}}, b"", "malformed entry for x"),
    "a negative shape": ({"x": entry(0, 4, (-1,))}, b"1234", "malformed entry for x"),
    "a boolean shape": ({"x": entry(0, 4, (True,))}, b"1234", "malformed entry for x"),
    "too few bytes": ({"x": entry(0, 4, (2,))}, b"1234", r"4 bytes, but shape \[2\].*takes 8"),
    "an overlap": ({"x": entry(0, 4), "y": entry(2, 6)}, b"123456", "y overlaps"),
    "a gap": ({"x": entry(0, 4), "y": entry(6, 10)}, b"1234567890", "y has a gap"),
    "bytes at the end": ({"x": entry(0, 4)}, b"12345", "truncated or damaged"),
    "beyond the end": ({"x": entry(0, 400, (100,))}, b"1234", "truncated or damaged"),
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_lying_header_is_refused(folder, lie):
    header, body, message = LIES[lie]
    write_header(folder, header, body)
    refused(folder, message)


@pytest.mark.parametrize("content", [b"", b"\x05", (2**62).to_bytes(8, "little") + b"{}"])
def test_a_file_shorter_than_its_header_is_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "not a whole safetensors file")


UNKNOWN = ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F6_E2M3", "F4", "C64", "U32"]


@pytest.mark.parametrize("dtype", UNKNOWN)
def test_a_dtype_that_cannot_be_merged_is_named_with_its_tensor(folder, dtype):
    write_header(folder, {"x.weight": entry(0, 1, (1,), dtype)}, b"1")
    refused(folder, rf"x\.weight in .*model\.safetensors has dtype {dtype}; expected")


UNTIED = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


@pytest.mark.parametrize("config", [UNTIED, {**UNTIED, "tie_word_embeddings": False}])
def test_an_untied_model_without_its_head_is_refused(tmp_path, config):
    weights = {"model.embed_tokens.weight": torch.ones(4, 2)}
    refused(model_folder(tmp_path / "m", weights, config), r"has no lm_head\.weight")


def test_a_tied_model_needs_no_head(tmp_path):
    weights = {"model.embed_tokens.weight": torch.ones(4, 2)}
    model = opened(
        model_folder(tmp_path / "m", weights, UNTIED | {"tie_word_embeddings": True})
    )
    assert model.names == ("model.embed_tokens.weight",)


@pytest.mark.parametrize(("head", "n_names"), [(1.0, 1), (2.0, 2)])
def test_a_tied_head_stored_beside_its_embedding_counts_once(tmp_path, head, n_names):
    weights = {
        "model.embed_tokens.weight": torch.ones(4, 2),
        "lm_head.weight": torch.full((4, 2), head),
    }
    model = opened(
        model_folder(tmp_path / "m", weights, UNTIED | {"tie_word_embeddings": True})
    )
    assert len(model.names) == n_names
    assert len(model.dropped) == 2 - n_names


def test_the_content_hash_does_not_depend_on_files_or_order(folder, tmp_path):
    other = tmp_path / "elsewhere"
    shutil.copytree(folder, other)
    shard(other, z=["a.weight"], y=["steps", "b.weight"])
    assert opened(other).content_hash() == opened(folder).content_hash()
    assert len(opened(folder).content_hash()) == 32


def change_a_value(folder):
    save_file(VALUES | {"a.weight": torch.tensor([1.5, 2.5])}, folder / "model.safetensors")


def change_a_shape(folder):
    save_file(VALUES | {"a.weight": VALUES["a.weight"][None]}, folder / "model.safetensors")


def change_the_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")


def change_the_configuration(folder):
    (folder / "config.json").write_text('{"model_type": "other"}')


@pytest.mark.parametrize(
    "change", [change_a_value, change_a_shape, change_the_tokenizer, change_the_configuration]
)
def test_the_content_hash_changes_with_what_the_model_is(folder, change):
    before = opened(folder).content_hash()
    change(folder)
    assert opened(folder).content_hash() != before


def test_a_card_does_not_change_the_content_hash(folder):
    before = opened(folder).content_hash()
    (folder / "README.md").write_text("a card")
    assert opened(folder).content_hash() == before


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEME_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def modified(folder, *, seconds_ago):
    """Date the files of a folder."""
    for file in folder.iterdir():
        stamp = time.time_ns() - seconds_ago * 10**9
        os.utime(file, ns=(stamp, stamp))


def test_the_content_hash_is_remembered_until_a_file_changes(folder, cache):
    modified(folder, seconds_ago=60)
    first = opened(folder).content_hash()
    (entry_file,) = cache.rglob("*.json")
    entry_file.write_text(entry_file.read_text().replace(first, "f" * 32))
    assert opened(folder).content_hash() == "f" * 32
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert opened(folder).content_hash() == first


def test_a_checkpoint_is_hashed_once_also_where_nothing_can_be_remembered(
    folder, cache, monkeypatch
):
    cache.write_text("")
    computed, compute = [], Checkpoint._compute_hash
    monkeypatch.setattr(
        Checkpoint, "_compute_hash", lambda self: computed.append(self.path) or compute(self)
    )
    model = opened(folder)
    assert model.content_hash() == model.content_hash()
    assert computed == [folder]


def test_what_was_written_a_moment_ago_is_not_remembered(folder, cache):
    # it may change again within the same tick of the clock, and in nothing but its content
    modified(folder, seconds_ago=60)
    os.utime(folder / "config.json", ns=(now := time.time_ns() + 60 * 10**9, now))
    assert opened(folder).content_hash() == opened(folder).content_hash()
    assert not list(cache.rglob("*.json"))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"files": 1}', "\x00"])
def test_a_damaged_cache_is_rebuilt(folder, cache, damage):
    modified(folder, seconds_ago=60)
    first = opened(folder).content_hash()
    (entry_file,) = cache.rglob("*.json")
    entry_file.write_text(damage)
    assert opened(folder).content_hash() == first
    assert json.loads(entry_file.read_text())["hash"] == first


def test_a_cache_that_cannot_be_written_only_costs_time(folder, tmp_path, monkeypatch, caplog):
    modified(folder, seconds_ago=60)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEME_CACHE_DIR", str(tmp_path / "file"))
    assert len(opened(folder).content_hash()) == 32
    assert "not cached" in caplog.text


def test_a_llama_of_transformers_opens(make_llama, tmp_path):
    model = opened(make_llama(tmp_path / "llama", 0, dtype=torch.bfloat16))
    assert model.config["model_type"] == "llama"
    assert model.shape("model.embed_tokens.weight") == (64, 16)
    assert model.dtype("lm_head.weight") == torch.bfloat16
    assert isinstance(model.path, Path)


Q = "model.layers.0.mlp.up_proj"
EXPERTS = "model.layers.0.mlp.experts"
INT32, INT8, UINT8 = (torch.ones(4, 4, dtype=d) for d in (torch.int32, torch.int8, torch.uint8))
SCALE = torch.ones(4)


def quantised_folder(path, tensors, **config):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "toy", **config}))
    own = {name: tensor.clone() for name, tensor in tensors.items()}  # none may share memory
    save_file({"a.weight": torch.ones(2, 2), **own}, path / "model.safetensors")
    return path


def refused_folder(folder, match):
    with pytest.raises(ValueError, match=match):
        open_checkpoint(folder, root=folder.parent)


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({f"{Q}.qweight": INT32, f"{Q}.qzeros": INT32, f"{Q}.scales": SCALE}, "qweight"),
        ({f"{Q}.g_idx": INT32[0]}, "g_idx"),
        ({f"{Q}.weight": UINT8, f"{Q}.weight.absmax": SCALE}, "weight"),
        ({f"{Q}.weight.absmax": SCALE}, "weight.absmax"),
        ({f"{Q}.weight.quant_state.bitsandbytes__nf4": UINT8}, "weight.quant_state.*nf4"),
        ({f"{Q}.weight": INT8, f"{Q}.SCB": SCALE}, "SCB"),
        ({f"{Q}.weight": INT8, f"{Q}.scale": SCALE}, "weight"),
        ({f"{Q}.weight_packed": INT32, f"{Q}.weight_scale": SCALE}, "weight_packed"),
        ({f"{Q}.weight_scale_inv": SCALE}, "weight_scale_inv"),
        ({f"{Q}.weight._data": INT8, f"{Q}.weight._scale": SCALE}, "weight._data"),
        ({f"{Q}.W_q": UINT8, f"{Q}.scale": SCALE, f"{Q}.zero": SCALE}, "W_q"),
        ({f"{Q}.codes": INT8, f"{Q}.codebooks": SCALE}, "codes"),
        (
            {f"{EXPERTS}.down_proj_blocks": UINT8, f"{EXPERTS}.down_proj_scales": UINT8},
            "blocks",
        ),
        ({f"{EXPERTS}.down_proj": INT8, f"{EXPERTS}.down_proj_scale": SCALE}, "down_proj"),
    ],
)
def test_packed_weights_are_refused_by_name_whatever_the_configuration(
    tmp_path, tensors, named
):
    folder = quantised_folder(tmp_path / "m", tensors)
    refused_folder(
        folder, rf"is quantised: \S+{named} \(torch\.\w+\) in model\.safetensors is a part"
    )


def test_integers_that_are_no_weights_are_copied_with_a_reason(tmp_path):
    buffers = {
        "embeddings.position_ids": torch.arange(8).view(1, 8),
        "h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8),
        "h.0.attn.mask": torch.ones(4, 4, dtype=torch.bool),
        "h.0.attn.weight_mask": torch.ones(4, 4, dtype=torch.bool),
        "h.0.gate.tid2eid": torch.ones(8, 2, dtype=torch.int32),
        "h.0.weighted_pool.steps": torch.tensor(3),
        "logit_scale": torch.tensor(1.0),
    }
    folder = quantised_folder(tmp_path / "m", buffers)
    model = open_checkpoint(folder, root=tmp_path)
    copied = reasons_to_copy(model, [], [])
    assert copied.keys() == buffers.keys() - {"logit_scale"}
    assert copied["embeddings.position_ids"] == "not floating point (int64)"


FP8 = {"quant_method": "fp8"}


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": FP8},
        {"compression_config": FP8},
        {"text_config": {"quantization_config": FP8}},
    ],
)
def test_a_configuration_that_says_so_is_refused_over_plain_weights(tmp_path, config):
    refused_folder(
        quantised_folder(tmp_path / "m", {}, **config),
        r"is quantised, says its config\.json: \w+_config is \{'quant_method': 'fp8'\}; .* remove",
    )


def test_an_empty_entry_says_nothing(tmp_path):
    folder = quantised_folder(tmp_path / "m", {}, quantization_config={}, text_config=None)
    assert open_checkpoint(folder, root=tmp_path).names == ("a.weight",)
