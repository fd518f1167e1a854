"""GGUF models: files and parts found, parts read as one."""

import shutil

import pytest

from seme.checkpoint.gguf_model import find_gguf, read_gguf
from tests.gguf_files import write_gguf


def test_file_and_folder_are_the_same_model(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", kind="Q8_0")
    assert find_gguf(path) == find_gguf(tmp_path) == (path,)
    model = read_gguf((path,))
    assert (model.architecture, model.is_quantised) == ("llama", True)
    assert model.n_of_type == {"F32": 5, "Q8_0": 15}


def test_any_part_finds_all_in_order(tmp_path):
    first = write_gguf(tmp_path / "model.gguf", n_parts=3)
    names = [f"model-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    parts = find_gguf(first.with_name(names[2]))
    assert [part.name for part in parts] == names
    assert find_gguf(tmp_path) == parts
    assert len(read_gguf(parts).tensors) == 20


def test_absent_part_is_named(tmp_path):
    first = write_gguf(tmp_path / "model.gguf", n_parts=3)
    first.with_name("model-00002-of-00003.gguf").unlink()
    with pytest.raises(ValueError, match=r"of 3 parts .* model-00002-of-00003\.gguf is"):
        find_gguf(first)


def test_part_under_another_name_is_refused(tmp_path):
    first = write_gguf(tmp_path / "model.gguf", n_parts=3)
    alone = shutil.copy(first, tmp_path / "alone.gguf")
    with pytest.raises(ValueError, match=r"alone\.gguf is one of 3 parts, found 1: put all"):
        read_gguf((alone,))
    with pytest.raises(ValueError, match=r"holds .*, which is in another part as well"):
        read_gguf((first, alone))


def test_file_without_tensors_is_refused(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", tensors=False)
    with pytest.raises(ValueError, match="expected some tensors, found 0"):
        read_gguf((path,))


def test_several_models_in_a_folder_are_listed(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(
        ValueError, match=r"holds 2 GGUF models, a\.gguf, b\.gguf: give the path"
    ):
        find_gguf(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "a.txt"])
def test_folder_with_other_weights_or_none_is_no_gguf_model(tmp_path, name):
    (tmp_path / name).touch()
    if name != "a.txt":
        (tmp_path / "a.gguf").touch()
    assert find_gguf(tmp_path) == ()
    assert find_gguf(tmp_path / "absent") == ()
