"""Regular files: found inside a model's folder or in the Hub's blobs, nowhere else."""

import os

import pytest

from seme.checkpoint.regular_file import (
    find_file,
    is_file_name,
    open_regular,
    read_part,
    read_whole,
    shown,
)

HASH = "0123456789abcdef" * 4


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the Hub with a snapshot; returns the cache and the snapshot's folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "c"
    snapshot.mkdir(parents=True)
    return tmp_path / "hub", snapshot


def linked(folder, target):
    """Write a target and a link to it in a folder; return what is found."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("x")
    (folder / "x").symlink_to(target)
    return find_file(folder, "x")


def test_absent_files_are_none(tmp_path):
    assert find_file(tmp_path, "x") is None


def test_links_inside_the_folder_are_followed(tmp_path):
    assert linked(tmp_path, tmp_path / "deep" / "y") == tmp_path / "x"


def test_a_folder_that_is_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_text("x")
    (tmp_path / "link").symlink_to("real")
    assert find_file(tmp_path / "link", "x") == tmp_path / "link" / "x"


@pytest.mark.parametrize(
    "blob", ["models--a--b/blobs/e", f"blobs/01/{HASH}", "models--other/blobs/e"]
)
def test_links_of_a_snapshot_into_blobs_are_followed(hub, blob):
    cache, snapshot = hub
    assert linked(snapshot, cache / blob) == snapshot / "x"


@pytest.mark.parametrize("place", ["token", "blobs/01/short", "models--a--b/refs/main", "../x"])
def test_links_of_a_snapshot_to_other_files_are_refused(hub, place):
    cache, snapshot = hub
    with pytest.raises(ValueError, match=r"is a link to .*, outside the model's folder"):
        linked(snapshot, cache / place)


def test_folders_with_the_same_beginning_are_other_folders(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match="outside the model's folder"):
        linked(tmp_path / "model", tmp_path / "model-2" / "x")


@pytest.mark.parametrize("target", ["x", "absent"])
def test_links_to_themselves_or_to_nothing_are_refused(tmp_path, target):
    (tmp_path / "x").symlink_to(target)
    with pytest.raises(ValueError, match=r"/x cannot be read: "):
        find_file(tmp_path, "x")


@pytest.mark.parametrize("read", [open_regular, lambda path: read_whole(path, most=9)])
def test_pipes_are_refused_without_waiting(tmp_path, read):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(ValueError, match="must be a regular file, it is a named pipe"):
        read(tmp_path / "x")


def test_reading_is_bounded(tmp_path):
    (tmp_path / "x").write_text("hello")
    assert read_part(tmp_path / "x", 1, 3) == (b"el", 5)
    assert read_whole(tmp_path / "x", most=5) == b"hello"
    with pytest.raises(ValueError, match="has 5 bytes, expected at most 4"):
        read_whole(tmp_path / "x", most=4)
    with pytest.raises(ValueError, match=r"absent cannot be read: No such file"):
        read_whole(tmp_path / "absent", most=4)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "a\0", "a\n", "\ud800", "a" * 256]
)
def test_other_names_are_no_names_of_files(name):
    assert not is_file_name(name)
    assert is_file_name("model-00001-of-00002.safetensors")


def test_values_are_shown_briefly():
    assert (shown("a"), shown([1, None]), shown({"a": 1})) == ("'a'", "[1, None]", "{'a': 1}")
    for value in ("a" * 10**6, [[["x" * 99] * 99] * 99] * 99, {"\ud800" * 99: 10**39}):
        assert len(shown(value).encode()) <= 103
