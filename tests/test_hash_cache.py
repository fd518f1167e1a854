"""Cached hashes: valid until a file changes."""

import json
import os
import time

import pytest

from seme.checkpoint.hash_cache import cached_hash

HASH, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEME_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path):
    """Two files last modified a minute ago."""
    paths = [tmp_path / "config.json", tmp_path / "model.safetensors"]
    stamp = time.time_ns() - 60 * 10**9
    for path in paths:
        path.write_text("content")
        os.utime(path, ns=(stamp, stamp))
    return paths


@pytest.mark.usefixtures("cache")
def test_hash_is_recomputed_only_after_a_file_change(files):
    assert cached_hash(files, lambda: HASH) == HASH
    assert cached_hash(files, lambda: OTHER) == HASH
    os.utime(files[1], ns=(1, 1))
    assert cached_hash(files, lambda: OTHER) == OTHER


@pytest.mark.usefixtures("cache")
def test_hashes_of_another_kind_are_cached_apart(files):
    assert cached_hash(files, lambda: HASH) == HASH
    assert cached_hash(files, lambda: OTHER, kind="sha256") == OTHER
    assert cached_hash(files, lambda: OTHER) == HASH
    assert cached_hash(files, lambda: HASH, kind="sha256") == OTHER


def test_hash_of_a_recently_modified_file_is_not_cached(files, cache):
    # it may change again within the same tick of the clock, and in nothing but its content
    os.utime(files[0], ns=(now := time.time_ns() + 60 * 10**9, now))
    assert cached_hash(files, lambda: HASH) == HASH
    assert cached_hash(files, lambda: OTHER) == OTHER
    assert not list(cache.rglob("*.json"))


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"files": 1}', "\x00", "[" * 10**5, '{"hash": ' + "9" * 5000 + "}"],
)
def test_damaged_cache_entry_is_replaced(files, cache, damage):
    cached_hash(files, lambda: HASH)
    (entry,) = cache.rglob("*.json")
    entry.write_text(damage)
    assert cached_hash(files, lambda: OTHER) == OTHER
    assert json.loads(entry.read_text())["hash"] == OTHER


def test_unwritable_cache_is_logged_once(files, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEME_CACHE_DIR", str(tmp_path / "file"))
    assert [cached_hash(files, lambda: HASH) for _ in range(2)] == [HASH, HASH]
    assert [str(tmp_path / "file") in line for line in caplog.messages] == [True]


def test_a_pipe_in_the_cache_is_replaced(files, cache):
    cached_hash(files, lambda: HASH)
    (entry,) = cache.rglob("*.json")
    entry.unlink()
    os.mkfifo(entry)
    assert cached_hash(files, lambda: OTHER) == OTHER
    assert json.loads(entry.read_text())["hash"] == OTHER


@pytest.mark.usefixtures("cache")
def test_files_whose_names_are_not_text_are_hashed(files):
    strange = files[0].rename(files[0].with_name(os.fsdecode(b"x\xff")))
    assert [cached_hash([strange], lambda: HASH) for _ in range(2)] == [HASH, HASH]
