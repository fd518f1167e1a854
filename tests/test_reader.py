"""Reading checkpoints: tensors and bytes read, refused folders, content hashes."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from seme.checkpoint.reader import Checkpoint, open_checkpoint
from seme.checkpoint.safetensors_file import OpenFile
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


def opened(folder):
    return open_checkpoint(folder, root=folder.parent)


def refused(folder, match):
    with pytest.raises(ValueError, match=match):
        opened(folder)


def test_single_file_returns_the_saved_tensors(folder):
    model = opened(folder)
    assert model.names == ("a.weight", "b.weight", "steps")
    assert (model.shape("b.weight"), model.dtype("b.weight")) == ((2, 3), torch.bfloat16)
    for name, expected in VALUES.items():
        assert model.read(name).dtype == expected.dtype
        assert torch.equal(model.read(name), expected)


def test_bytes_are_counted_when_read(folder):
    model = opened(folder)
    assert (model.nbytes, model.bytes_read) == (12 + 8 + 8, 0)
    model.read("b.weight")
    assert model.bytes_read == 12


def test_repeated_reads_return_separate_tensors(folder):
    model = opened(folder)
    model.read("a.weight").zero_()
    assert model.read("a.weight").tolist() == [1.5, -2.5]


def test_relative_locations_are_resolved_at_the_root(folder):
    assert open_checkpoint("model", root=folder.parent).path == folder


def test_sharded_model_equals_a_single_file(folder):
    model = opened(shard(folder, one=["b.weight", "steps"], two=["a.weight"]))
    assert model.names == ("a.weight", "b.weight", "steps")
    assert all(torch.equal(model.read(name), value) for name, value in VALUES.items())


def test_a_folder_without_configuration_is_refused(folder):
    (folder / "config.json").unlink()
    refused(folder, r"has no config\.json")


def test_folder_without_weights_is_refused_with_expected_files(folder):
    (folder / "model.safetensors").unlink()
    refused(
        folder, r"no weights: expected model\.safetensors or model\.safetensors\.index\.json"
    )


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickled_weights_are_refused_with_the_conversion(folder, file):
    (folder / "model.safetensors").rename(folder / file)
    refused(folder, rf"pickled weights \({file}\)(?s:.*)save_pretrained\(.*safe_serialization")


def test_a_single_file_next_to_an_index_is_refused(folder):
    write_index(folder, {"a.weight": "one.safetensors"})
    refused(folder, r"both model\.safetensors and model\.safetensors\.index\.json.*stale")


def test_missing_shard_is_named(folder):
    shard(folder, one=["a.weight"], two=["b.weight", "steps"])
    (folder / "two.safetensors").unlink()
    refused(folder, r"names two\.safetensors, which is absent")


@pytest.mark.parametrize(
    "outside", ["../x.safetensors", "/x.safetensors", "..\\x", "a/x", ".."]
)
def test_index_paths_are_confined_to_the_folder(folder, outside):
    (folder / "model.safetensors").rename(folder.parent / "x.safetensors")
    write_index(folder, dict.fromkeys(VALUES, outside))
    refused(folder, "index paths are confined to the model folder")


def test_index_disagreeing_with_headers_is_refused(folder):
    shard(folder, one=["a.weight"], two=["b.weight", "steps"])
    swapped = {"a.weight": "two.safetensors", "b.weight": "one.safetensors"}
    write_index(folder, swapped)
    refused(folder, r"header of one\.safetensors.*disagree about a\.weight, b\.weight")


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


def tied_folder(path, head):
    """Write a tied model that stores its head, (4, 2) in float32 like its embedding."""
    weights = {
        "lm_head.weight": torch.full((4, 2), head),
        "model.embed_tokens.weight": torch.ones(4, 2),
    }
    return model_folder(path, weights, UNTIED | {"tie_word_embeddings": True})


@pytest.fixture
def read_sizes(monkeypatch):
    """Sizes in bytes of all read_sizes of tensors."""
    sizes, read_into = [], OpenFile.read_into

    def recorded(self, buffer, offset):
        sizes.append(len(buffer))
        read_into(self, buffer, offset)

    monkeypatch.setattr(OpenFile, "read_into", recorded)
    return sizes


@pytest.mark.parametrize(
    ("head", "names", "n_bytes"),
    [
        (1.0, ("model.embed_tokens.weight",), 32),
        (2.0, ("lm_head.weight", "model.embed_tokens.weight"), 64),
    ],
)
def test_tied_head_equal_to_the_embedding_is_dropped(tmp_path, head, names, n_bytes):
    model = opened(tied_folder(tmp_path / "m", head))
    assert (model.names, model.nbytes) == (names, n_bytes)
    assert model.dropped.keys() == {"lm_head.weight", "model.embed_tokens.weight"} - {*names}


def test_opening_reads_no_tensors_and_reads_are_counted(tmp_path, read_sizes):
    model = opened(tied_folder(tmp_path / "m", 1.0))
    assert model.shape("lm_head.weight") == (4, 2)
    assert (read_sizes, model.bytes_read) == ([], 0)
    assert model.names == ("model.embed_tokens.weight",)
    assert sum(read_sizes) == model.bytes_read == 2 * 32
    model.read("model.embed_tokens.weight")
    assert sum(read_sizes) == model.bytes_read == 3 * 32


def test_untied_model_keeps_equal_tensors_unread(tmp_path, read_sizes):
    weights = {name: torch.ones(4, 2) for name in ("embed_tokens.weight", "lm_head.weight")}
    model = opened(model_folder(tmp_path / "m", weights, UNTIED))
    assert (model.names, model.dropped) == (("embed_tokens.weight", "lm_head.weight"), {})
    assert (read_sizes, model.bytes_read) == ([], 0)


def test_tied_tensors_are_compared_bytewise(tmp_path):
    weights = {"embed_tokens.weight": torch.zeros(2), "lm_head.weight": -torch.zeros(2)}
    model = opened(model_folder(tmp_path / "m", weights, {"tie_word_embeddings": True}))
    assert model.dropped == {}


def test_content_hash_does_not_depend_on_shards_or_order(folder, tmp_path):
    other = tmp_path / "elsewhere"
    shutil.copytree(folder, other)
    shard(other, z=["a.weight"], y=["steps", "b.weight"])
    assert opened(other).content_hash() == opened(folder).content_hash()
    assert len(opened(folder).content_hash()) == 32


def change_the_configuration(folder):
    (folder / "config.json").write_text('{"model_type": "other"}')


def save(folder, **tensors):
    save_file(VALUES | tensors, folder / "model.safetensors")


CHANGES = {
    "value": lambda folder: save(folder, **{"a.weight": torch.tensor([1.5, 2.5])}),
    "shape": lambda folder: save(folder, **{"a.weight": VALUES["a.weight"][None]}),
    "tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "configuration": change_the_configuration,
}


@pytest.mark.parametrize("change", CHANGES)
def test_content_hash_changes_with_tensors_tokenizer_and_configuration(folder, change):
    before = opened(folder).content_hash()
    CHANGES[change](folder)
    assert opened(folder).content_hash() != before


def test_model_card_does_not_change_the_content_hash(folder):
    before = opened(folder).content_hash()
    (folder / "README.md").write_text("a card")
    assert opened(folder).content_hash() == before


def test_a_checkpoint_is_hashed_once(folder, monkeypatch):
    computed, compute = [], Checkpoint._hash_of_tensors
    monkeypatch.setattr(
        Checkpoint, "_hash_of_tensors", lambda self: computed.append(self.path) or compute(self)
    )
    model = opened(folder)
    assert model.content_hash() == model.content_hash()
    assert computed == [folder]


def test_hashing_counts_what_it_reads(folder):
    model = opened(folder)
    model.content_hash()
    assert model.bytes_read == model.nbytes == 28


BLOB, OTHER_BLOB = "0123456789abcdef" * 4, "f" * 64


def snapshot(root, shards, blobs, name="model"):
    """Lay out a model as huggingface_hub caches it: each file a link to its blob."""
    repository = root / name
    (repository / "blobs").mkdir(parents=True)
    commit = repository / "snapshots" / ("c" * 40)
    commit.mkdir(parents=True)
    placed = {}
    for file, blob in zip(shards, blobs, strict=True):
        save_file({n: VALUES[n] for n in shards[file]}, repository / "blobs" / blob)
        (commit / file).symlink_to(Path("../../blobs") / blob)
        placed |= dict.fromkeys(shards[file], file)
    (repository / "blobs" / ("a" * 40)).write_text('{"model_type": "toy"}')
    (commit / "config.json").symlink_to(Path("../../blobs") / ("a" * 40))
    if len(shards) > 1:
        write_index(commit, placed)
    return commit


WHOLE = {"model.safetensors": list(VALUES)}
SHARDS = {"one.safetensors": ["a.weight"], "two.safetensors": ["b.weight", "steps"]}


@pytest.mark.parametrize(("shards", "blobs"), [(WHOLE, [BLOB]), (SHARDS, [BLOB, OTHER_BLOB])])
def test_a_hub_snapshot_is_hashed_without_reading_its_weights(
    tmp_path, read_sizes, shards, blobs
):
    model = opened(snapshot(tmp_path, shards, blobs))
    assert len(model.content_hash()) == 32
    assert (read_sizes, model.bytes_read) == ([], 0)
    assert torch.equal(model.read("b.weight"), VALUES["b.weight"])


def test_the_hash_of_a_hub_snapshot_changes_with_a_blob_or_a_model_file(tmp_path):
    folders = [
        snapshot(tmp_path, WHOLE, [BLOB], "first"),
        snapshot(tmp_path, WHOLE, [BLOB], "equal"),
        snapshot(tmp_path, WHOLE, [OTHER_BLOB], "other"),
        snapshot(tmp_path, WHOLE, [BLOB], "other_config"),
        snapshot(tmp_path, SHARDS, [BLOB, OTHER_BLOB], "sharded"),
    ]
    (folders[3] / "config.json").unlink()
    change_the_configuration(folders[3])
    first, equal, *others = (opened(folder).content_hash() for folder in folders)
    assert first == equal
    assert len({first, *others}) == 4


@pytest.mark.parametrize("blob", ["a" * 39, "g" * 64, "A" * 64, "model.safetensors"])
def test_blob_without_a_sha256_name_is_hashed_by_content(tmp_path, folder, blob):
    model = opened(snapshot(tmp_path, WHOLE, [blob], "hub"))
    assert model.content_hash() == opened(folder).content_hash()
    assert model.bytes_read == model.nbytes


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, folder, name):
    (folder / "tokenizer.json").write_text("{}")
    (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    refused(folder, rf"{name} is a link to .*/secret, outside the model's folder")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipes_and_folders_are_refused(folder, name, make):
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    refused(folder, rf"{name} must be a regular file, it is a (named pipe|folder)")


def test_files_that_no_format_needs_are_not_copied(folder):
    (folder / "vocab_x.txt").symlink_to("/etc/passwd")
    (folder / "preprocessor_config.json").write_text("{}")
    (folder / "modeling_x.py").write_text("")
    model = opened(folder)
    assert [file.name for file in model.model_files()] == [
        "config.json",
        "preprocessor_config.json",
    ]
    assert model.code_files() == ("modeling_x.py",)


@pytest.mark.parametrize("embeddings", ["rwkv.embeddings.weight", "embed_tokens.weight"])
def test_a_head_of_any_name_is_a_head(tmp_path, embeddings):
    config = {"architectures": ["RwkvForCausalLM"], "tie_word_embeddings": False}
    weights = {embeddings: torch.ones(4, 2), "head.weight": torch.ones(4, 2)}
    config |= {"vocab_size": 4}
    assert opened(model_folder(tmp_path / "m", weights, config)).names == (*sorted(weights),)


def test_transformers_shards_can_be_opened(make_llama, tmp_path):
    whole = make_llama(tmp_path / "whole", 0, dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(whole, dtype="auto")
    model.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    shutil.copy(whole / "config.json", tmp_path / "shards")
    single, sharded = opened(whole), opened(tmp_path / "shards")
    assert single.names == sharded.names
    assert all(torch.equal(single.read(n), sharded.read(n)) for n in single.names)


Q = "model.layers.0.mlp.up_proj"
EXPERTS = "model.layers.0.mlp.experts"
INT32, INT8, UINT8 = (torch.ones(4, 4, dtype=d) for d in (torch.int32, torch.int8, torch.uint8))
SCALE = torch.ones(4)


def packed_folder(path, tensors, config=None):
    """Write tensors, none of which may share memory, next to a plain weight."""
    own = {name: tensor.clone() for name, tensor in tensors.items()}
    weights = {"a.weight": torch.ones(2, 2), **own}
    return model_folder(path, weights, {"model_type": "toy", **(config or {})})


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({f"{Q}.qweight": INT32, f"{Q}.qzeros": INT32, f"{Q}.scales": SCALE}, "qweight"),
        ({f"{Q}.weight": UINT8, f"{Q}.weight.absmax": SCALE}, "weight"),
        ({f"{Q}.weight.quant_state.bitsandbytes__nf4": UINT8}, "weight.quant_state.*nf4"),
        ({f"{Q}.weight": INT8, f"{Q}.SCB": SCALE}, "weight"),
        ({f"{Q}.weight": INT8, f"{Q}.scale": SCALE}, "weight"),
        ({f"{Q}.weight_packed": INT32, f"{Q}.weight_scale": SCALE}, "weight_packed"),
        ({f"{Q}.weight._data": INT8, f"{Q}.weight._scale": SCALE}, "weight._data"),
        ({f"{Q}.W_q": UINT8, f"{Q}.scale": SCALE, f"{Q}.zero": SCALE}, "W_q"),
        ({f"{Q}.codes": INT8, f"{Q}.codebooks": SCALE}, "codes"),
        ({f"{EXPERTS}.proj_blocks": UINT8, f"{EXPERTS}.proj_scales": UINT8}, "blocks"),
        ({f"{EXPERTS}.down_proj": INT8, f"{EXPERTS}.down_proj_scale": SCALE}, "down_proj"),
    ],
)
def test_quantised_weights_are_refused_by_tensor_name(tmp_path, tensors, named):
    folder = packed_folder(tmp_path / "m", tensors)
    refused(folder, rf"is quantised: \S+{named} \(torch\.\w+\) in model\.safetensors is a part")


def test_integer_buffers_are_copied_with_a_reason(tmp_path):
    buffers = {
        "embeddings.position_ids": torch.arange(8).view(1, 8),
        "h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8),
        "h.0.attn.mask": torch.ones(4, 4, dtype=torch.bool),
        "h.0.attn.weight_mask": torch.ones(4, 4, dtype=torch.bool),
        "h.0.gate.tid2eid": torch.ones(8, 2, dtype=torch.int32),
        "h.0.weighted_pool.steps": torch.tensor(3),
        "logit_scale": torch.tensor(1.0),
    }
    folder = packed_folder(tmp_path / "m", buffers)
    model = open_checkpoint(folder, root=tmp_path)
    copied = reasons_to_copy(model, [], [])
    assert copied.keys() == buffers.keys() - {"logit_scale"}
    assert copied["embeddings.position_ids"] == "not floating point (int64)"


def test_quantization_config_is_refused_with_plain_weights(tmp_path):
    config = {"quantization_config": {"quant_method": "fp8"}}
    refused(
        packed_folder(tmp_path / "m", {}, config),
        r"config\.json has quantization_config \{'quant_method': 'fp8'\}",
    )


def test_empty_quantization_config_is_ignored(tmp_path):
    folder = packed_folder(tmp_path / "m", {}, {"quantization_config": {}})
    assert open_checkpoint(folder, root=tmp_path).names == ("a.weight",)
