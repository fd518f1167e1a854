"""Folders that are complete or not there."""

import pytest

from scripts.zoo.folders import replace_folder


def files(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_finished_folder_takes_the_place_of_another(tmp_path):
    old = tmp_path / "model"
    old.mkdir()
    (old / "weights").write_text("old")
    (old / "left over").write_text("old")
    with replace_folder(old) as unfinished:
        (unfinished / "weights").write_text("new")
        assert files(old)["weights"] == "old"
    assert files(old) == {"weights": "new"}
    assert list(tmp_path.iterdir()) == [old]


def test_an_interrupted_folder_leaves_the_other_and_is_emptied_by_the_next(tmp_path):
    folder = tmp_path / "models" / "model"
    with replace_folder(folder) as unfinished:
        (unfinished / "weights").write_text("first")

    def interrupt():
        with replace_folder(folder) as unfinished:
            (unfinished / "half").write_text("second")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert files(folder) == {"weights": "first"}
    with replace_folder(folder) as unfinished:
        assert files(unfinished) == {}
        (unfinished / "weights").write_text("third")
    assert files(folder) == {"weights": "third"}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
