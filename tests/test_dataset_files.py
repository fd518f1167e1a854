"""Data files in folders: layouts, splits, content hash."""

import pandas as pd
import pytest

from eval.dataset_files import (
    converted_files,
    files_of,
    hash_of,
    loading_script,
    mirror_folder,
    snapshot,
    snapshot_files,
)
from tests.tiny_mirror import SUMS, write_snapshot, write_sums


@pytest.fixture
def sums(tmp_path):
    return write_sums(tmp_path / SUMS)


def test_files_are_those_of_the_configuration_by_split(sums):
    assert files_of(str(sums), "easy", {}) == {
        "train": (sums / "easy/train.jsonl",),
        "test": (sums / "easy/test.jsonl",),
    }
    chosen = {"data_files": {"test": "hard/*.jsonl"}, "streaming": True}
    assert files_of(str(sums), None, chosen) == {"test": (sums / "hard/test.jsonl",)}


@pytest.mark.parametrize(
    ("path", "config", "kwargs", "message"),
    [
        (SUMS, "x", {}, r"'x' not found. Available: \['easy', 'hard'\]"),
        (SUMS, None, {}, "Config name is missing"),
        (SUMS, "easy", {"data_files": "x.json"}, "x.json"),
        ("empty", None, {}, "empty"),
    ],
)
def test_what_cannot_be_read_is_an_error(tmp_path, path, config, kwargs, message):
    write_sums(tmp_path / SUMS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        files_of(str(tmp_path / path), config, kwargs)


def test_a_mirror_has_either_layout_and_the_plain_one_goes_first(tmp_path):
    assert mirror_folder(tmp_path, SUMS, None) is None
    cached = write_snapshot(tmp_path)
    assert mirror_folder(tmp_path, SUMS, None) == cached
    assert mirror_folder(tmp_path, SUMS, "0ther") == cached.with_name("0ther")
    assert mirror_folder(tmp_path, SUMS, "gone") is None
    assert mirror_folder(tmp_path, SUMS, None) != write_sums(tmp_path / SUMS)
    assert mirror_folder(tmp_path, SUMS, None) == tmp_path / SUMS


def test_a_snapshot_without_a_branch_counts_if_it_is_the_only_one(tmp_path):
    cached = write_snapshot(tmp_path)
    (tmp_path / "datasets--org--sums/refs/main").unlink()
    assert snapshot(tmp_path, SUMS, None) is None
    cached.with_name("0ther").rmdir()
    assert snapshot(tmp_path, SUMS, None) == cached


def test_a_partial_snapshot_gives_the_configuration_it_has(tmp_path):
    cached = write_snapshot(tmp_path)
    whole = snapshot_files(cached, "hard")
    for file in (cached / "easy").iterdir():
        file.unlink()
    assert snapshot_files(cached, "hard") == whole == {"test": (cached / "hard/test.jsonl",)}
    assert snapshot_files(cached, "easy") == snapshot_files(cached, "x") == {}


def test_a_loading_script_is_named_if_it_stops_the_data_set(sums, tmp_path):
    assert loading_script(sums) is None
    (sums / "make.py").touch()  # a script that made the data is no matter
    assert loading_script(sums) is None
    (sums / "sums.py").touch()
    assert loading_script(sums) == "sums.py"
    (tmp_path / "c0ffee/.cache").mkdir(parents=True)
    for name in ("README.md", "load.py", ".cache/state"):
        (tmp_path / "c0ffee" / name).touch()
    assert loading_script(tmp_path / "c0ffee") == "load.py"


def test_files_that_the_hub_converted_are_found_by_configuration_and_split(tmp_path):
    for place in ("easy/dev", "easy/test", "hard/test"):
        (tmp_path / place).mkdir(parents=True)
        pd.DataFrame({"a": [1]}).to_parquet(tmp_path / place / "0000.parquet")
    converted = converted_files(tmp_path, "easy")
    assert converted == {"dev": "easy/dev/*.parquet", "test": "easy/test/*.parquet"}
    assert files_of(str(tmp_path), None, {"data_files": converted}) == {
        "dev": (tmp_path / "easy/dev/0000.parquet",),
        "test": (tmp_path / "easy/test/0000.parquet",),
    }
    assert converted_files(tmp_path, None) == {}


def test_the_hash_is_of_content_by_split(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    before = hash_of({"test": [one], "train": [two]})
    assert hash_of({"train": [two], "test": [one]}) == before  # in any order of splits
    assert hash_of({"test": [two], "train": [one]}) != before
    assert hash_of({"test": [one, two]}) != hash_of({"test": [two, one]})
    renamed = one.rename(tmp_path / "three")
    assert hash_of({"test": [renamed], "train": [two]}) == before
    renamed.write_text("10")
    assert hash_of({"test": [renamed], "train": [two]}) != before
