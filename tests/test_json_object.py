"""JSON files of a folder: an object, or an error that names the file."""

import pytest

from seme.checkpoint.model_folder import read_object


def test_an_object_comes_back(tmp_path):
    (tmp_path / "config.json").write_text('{"name": "caf\u00e9"}', encoding="utf-8")
    assert read_object(tmp_path / "config.json", of="a model folder") == {"name": "caf\u00e9"}


def test_an_absent_file_says_what_the_folder_is_not(tmp_path):
    with pytest.raises(
        ValueError, match=rf"{tmp_path} has no x\.json: it is not a PEFT adapter"
    ):
        read_object(tmp_path / "x.json", of="a PEFT adapter")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"{", "cannot be parsed"),
        (b"\xff", "cannot be parsed"),
        (b"[" * 100_000, "cannot be parsed"),
        (b"[1, 2]", r"must hold a JSON object, got \[1, 2\]"),
    ],
)
def test_anything_else_is_refused_by_its_path(tmp_path, content, match):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.json {match}"):
        read_object(tmp_path / "x.json", of="a model folder")
