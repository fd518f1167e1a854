"""Writing checkpoints: content of the new folder, atomic publication, no temporary folders."""

import json
import os
import platform
import subprocess
import sys
import time

import pytest
import torch
import xxhash
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from seme.checkpoint.reader import open_checkpoint
from seme.checkpoint.safetensors_file import TensorSpec
from seme.checkpoint.writer import CheckpointWriter, remove_stale, split_into_shards, with_dtype

VALUES = {
    "a": torch.tensor([1.5, -2.5]),
    "b": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "c": torch.tensor(True),
}
LAYOUT = {n: TensorSpec(dtype=v.dtype, shape=tuple(v.shape)) for n, v in VALUES.items()}
FILES = {
    "config.json": '{ "model_type":"toy" , "torch_dtype": "float32"}',
    "generation_config.json": "{}",
    "tokenizer.json": "{ }\n",
    "tokenizer_config.json": "{}",
    "special_tokens_map.json": "{}",
    "chat_template.jinja": "{{ messages }}",
    "vocab.json": "{}",
    "merges.txt": "a b",
    "spiece.model": "x",
    "LICENSE": "Apache-2.0",
}


@pytest.fixture
def pivot(tmp_path):
    folder = tmp_path / "pivot"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    save_file(VALUES, folder / "model.safetensors")
    return open_checkpoint(folder, root=tmp_path)


@pytest.fixture
def destination(tmp_path):
    return tmp_path / "out" / "merged"


def write(destination, pivot, values, *, layout=None, **options):
    defaults = {"dtype": None, "config": pivot.config}
    with CheckpointWriter(
        destination, pivot=pivot, layout=layout or LAYOUT, **{**defaults, **options}
    ) as writer:
        for name, value in values.items() if isinstance(values, dict) else values:
            writer.write(name, value)
    return writer


def siblings(destination):
    return sorted(path.name for path in destination.parent.iterdir())


def test_written_file_equals_safetensors_bytes(destination, pivot, tmp_path):
    writer = write(destination, pivot, dict(reversed(VALUES.items())))
    save_file(VALUES, tmp_path / "expected.safetensors", metadata={"format": "pt"})
    written = (destination / "model.safetensors").read_bytes()
    assert written == (tmp_path / "expected.safetensors").read_bytes()
    assert writer.bytes_written == 8 + 12 + 1


def test_shards_are_indexed_and_complete(destination, pivot, tmp_path):
    write(destination, pivot, VALUES, max_shard_bytes=13)
    shards = sorted(destination.glob("*.safetensors"))
    assert [path.name[6:11] for path in shards] == ["00001", "00002"]
    assert [sorted(load_file(path)) for path in shards] == [["a"], ["b", "c"]]
    index = json.loads((destination / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 21
    again = open_checkpoint(destination, root=tmp_path)
    assert again.content_hash() == pivot.content_hash()


def test_oversized_tensor_gets_its_own_shard():
    assert [sorted(group) for group in split_into_shards(LAYOUT, 1).values()] == [
        ["a"],
        ["b"],
        ["c"],
    ]


def test_tokenizer_and_config_files_are_copied(destination, pivot):
    write(destination, pivot, VALUES)
    assert siblings(destination / "x") == sorted([*FILES, "model.safetensors"])
    assert all((destination / name).read_text() == text for name, text in FILES.items())


def test_named_chat_templates_are_copied_and_hashed(destination, pivot, tmp_path):
    before = pivot.content_hash()
    template = pivot.path / "additional_chat_templates" / "tool_use.jinja"
    template.parent.mkdir()
    template.write_text("{{ tools }}")
    write(destination, pivot, VALUES)
    assert (destination / template.relative_to(pivot.path)).read_text() == "{{ tools }}"
    assert open_checkpoint(pivot.path, root=tmp_path).content_hash() != before


@pytest.mark.parametrize(
    "name",
    ["README.md", "modeling.py", "tokenizer.py", "pytorch_model.bin", "adapter.safetensors"],
)
def test_cards_code_and_other_weights_are_not_copied(destination, pivot, name):
    (pivot.path / name).write_text("x")
    write(destination, pivot, VALUES)
    assert name not in siblings(destination / "x")


def test_with_dtype_changes_only_the_dtype_entry():
    config = {"b": 1, "torch_dtype": "float32", "a": {"dtype": "float32"}}
    changed = with_dtype(config, torch.bfloat16)
    assert list(changed.items()) == [
        ("b", 1),
        ("torch_dtype", "bfloat16"),
        ("a", {"dtype": "float32"}),
    ]
    assert with_dtype({"b": 1}, torch.float16) == {"b": 1, "dtype": "float16"}
    assert with_dtype(config, None) is config


def test_unchanged_dtype_keeps_the_config_bytes(destination, pivot):
    write(destination, pivot, VALUES, dtype=torch.float32)
    assert (destination / "config.json").read_text() == FILES["config.json"]


def test_existing_destination_is_refused(destination, pivot):
    destination.mkdir(parents=True)
    with pytest.raises(ValueError, match="merged already exists: a merge writes a new folder"):
        write(destination, pivot, VALUES)
    assert siblings(destination) == ["merged"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_error_while_writing_leaves_no_files(destination, pivot, error):
    def values():
        yield "a", VALUES["a"]
        assert siblings(destination)[0].startswith(".seme-writing-merged-")
        raise error("midway")

    with pytest.raises(error, match="midway"):
        write(destination, pivot, values())
    assert siblings(destination) == []


@pytest.mark.parametrize("call", ["shutil.copyfile", "os.fsync"])
def test_error_while_starting_or_publishing_leaves_no_files(
    destination, pivot, monkeypatch, call
):
    def fail(*_):
        raise OSError(call)

    monkeypatch.setattr(f"seme.checkpoint.writer.{call}", fail)
    with pytest.raises(OSError, match=call):
        write(destination, pivot, VALUES)
    assert siblings(destination) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": VALUES["a"]}, "not written in full: b, c"),
        ({**VALUES, "d": VALUES["a"]}, "d is not in the layout"),
        ({**VALUES, "a": VALUES["a"][:1]}, "not written in full: a"),
        ({"a": VALUES["a"].double()}, "a must be written in .*float32.*got .*float64"),
    ],
)
def test_written_tensors_must_match_the_layout(destination, pivot, values, message):
    with pytest.raises(ValueError, match=message):
        write(destination, pivot, values)
    assert siblings(destination) == []


def test_tensor_written_twice_is_refused(destination, pivot):
    with pytest.raises(ValueError, match="a has 8 bytes, got 8 more: it was written before"):
        write(destination, pivot, [("a", VALUES["a"]), ("a", VALUES["a"])])


def test_tensors_can_be_written_in_pieces_in_any_order(destination, pivot):
    layout = {name: pivot.spec(name) for name in pivot.names}
    with CheckpointWriter(
        destination, pivot=pivot, layout=layout, config=pivot.config, dtype=None
    ) as writer:
        for name, values in VALUES.items():
            for start in reversed(range(values.numel())):
                writer.write(name, values.reshape(-1)[start : start + 1], start)
    written = load_file(destination / "model.safetensors")
    assert all(torch.equal(written[name], values) for name, values in VALUES.items())


def test_strided_tensor_is_written_in_logical_order(destination, pivot):
    columns = VALUES["b"].T.contiguous().T
    write(destination, pivot, {**VALUES, "b": columns})
    assert torch.equal(load_file(destination / "model.safetensors")["b"], VALUES["b"])


KILLED = """
import os, sys
from pathlib import Path
from seme.checkpoint.reader import open_checkpoint
from seme.checkpoint.safetensors_file import TensorSpec
from seme.checkpoint.writer import CheckpointWriter
pivot = open_checkpoint(sys.argv[1], root=Path())
layout = {name: pivot.spec(name) for name in pivot.names}
with CheckpointWriter(Path(sys.argv[2]), pivot=pivot, layout=layout, config={}, dtype=None):
    os.kill(os.getpid(), 9)
"""


def test_changed_config_is_written(destination, pivot):
    write(destination, pivot, VALUES, config={**pivot.config, "tie_word_embeddings": False})
    written = json.loads((destination / "config.json").read_text())
    assert written == {**pivot.config, "tie_word_embeddings": False}


def test_temporary_folder_of_a_killed_merge_is_removed(destination, pivot, repository):
    subprocess.run(
        [sys.executable, "-c", KILLED, pivot.path, destination], cwd=repository, check=False
    )
    assert [name.startswith(".seme-writing-merged-") for name in siblings(destination)] == [
        True
    ]
    write(destination, pivot, VALUES)
    assert siblings(destination) == ["merged"]


def test_temporary_folders_of_running_processes_are_kept(destination, pivot):
    with CheckpointWriter(
        destination, pivot=pivot, layout=LAYOUT, config=pivot.config, dtype=None
    ) as writer:
        temporary = siblings(destination)[0]
        for name, value in VALUES.items():
            writer.write(name, value)
    running = temporary.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    other = temporary.replace("-merged-", "-another-")
    for name in (running, other, temporary):
        (destination.parent / name).mkdir()
    remove_stale(destination)
    assert siblings(destination) == sorted([running, other, "merged"])


@pytest.mark.parametrize("days", [0, 2])
def test_temporary_folder_of_an_unknown_process_is_removed_after_a_day(destination, days):
    names = [f".seme-writing-merged-0123abcd-{os.getppid()}-0123abcd"]  # of another machine
    machine = xxhash.xxh32_hexdigest(platform.node().encode())
    names.append(f".seme-writing-merged-{machine}-{os.getppid()}-0123abcd")
    for name in names:
        folder = destination.parent / name
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
        for path in (folder / "model.safetensors", folder):
            os.utime(path, (time.time() - 86400 * days,) * 2)
    remove_stale(destination)
    assert siblings(destination) == ([] if days else sorted(names))


def test_transformers_loads_the_written_model_without_missing_keys(make_llama, tmp_path):
    llama = open_checkpoint(make_llama(tmp_path / "llama", 0), root=tmp_path)
    layout = {name: llama.spec(name) for name in llama.names}
    values = {name: llama.read(name) for name in llama.names}
    write(tmp_path / "merged", llama, values, layout=layout, max_shard_bytes=4000)
    model, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype="auto", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(model.lm_head.weight, values["lm_head.weight"])
