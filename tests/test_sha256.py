"""SHA-256 of files: read once, cached for inputs, taken from the Hub's blobs."""

import hashlib
import os
import time

import pytest

import seme.publishing.sha256
from seme.checkpoint.reader import open_checkpoint
from seme.publishing.sha256 import hash_files, hash_inputs, input_files, sha256_of


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("SEME_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"abc")
    os.utime(path, (time.time() - 60,) * 2)
    return path


def test_hash_is_that_of_the_standard(file):
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_files([file, file]) == hash_inputs([file, file]) == [expected] * 2


def test_inputs_are_read_once_until_they_change(file, monkeypatch):
    read = []

    def count(path):
        read.append(path)
        return sha256_of(path)

    monkeypatch.setattr(seme.publishing.sha256, "sha256_of", count)
    first = hash_inputs([file])
    assert hash_inputs([file]) == first
    assert read == [file]
    file.write_bytes(b"abd")
    assert hash_inputs([file]) != first
    hash_files([file])
    assert len(read) == 3


def test_blob_of_the_hubs_cache_is_not_read(tmp_path):
    name = hashlib.sha256(b"other").hexdigest()
    blob = tmp_path / "models--a--b/blobs" / name
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"content")
    link = tmp_path / "models--a--b/snapshots/c0/model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(f"../../blobs/{name}")
    assert hash_inputs([link]) == [name]  # as the Hub named it
    assert hash_files([link]) == [hashlib.sha256(b"content").hexdigest()]


def test_pipes_and_absent_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="must be a regular file, it is a named pipe"):
        sha256_of(tmp_path / "pipe")
    with pytest.raises(ValueError, match="absent cannot be read: No such file"):
        hash_files([tmp_path / "absent"])


def test_files_of_a_sharded_model_are_its_shards_index_and_configuration(make_llama, tmp_path):
    folder = make_llama(tmp_path / "whole", 0)
    assert _names(folder) == ["config.json", "generation_config.json", "model.safetensors"]
    from transformers import LlamaForCausalLM  # noqa: PLC0415

    LlamaForCausalLM.from_pretrained(folder).save_pretrained(
        tmp_path / "split", max_shard_size="10KB"
    )
    names = _names(tmp_path / "split")
    assert {p.name for p in (tmp_path / "split").iterdir()} == set(names)
    assert sum(name.endswith(".safetensors") for name in names) > 1


def _names(folder):
    return sorted(path.name for path in input_files(open_checkpoint(folder, root=folder)))
