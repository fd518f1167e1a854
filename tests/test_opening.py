"""Models of any format opened: GGUF files converted first, others as before."""

import pytest

from seme.checkpoint.opening import check_gguf, open_model
from tests.gguf_files import write_gguf


def test_file_and_folder_open_as_one_converted_checkpoint(tmp_path):
    path = write_gguf(tmp_path / "m" / "model.gguf", kind="Q8_0")
    by_file = open_model("m/model.gguf", root=tmp_path)
    by_folder = open_model(tmp_path / "m", root=tmp_path)
    assert by_file.path == by_folder.path != path.parent
    assert by_file.content_hash() == by_folder.content_hash()
    assert len(by_file.names) == 20


def test_other_folders_are_opened_where_they_are(make_llama, tmp_path):
    folder = make_llama(tmp_path / "llama", 0)
    (folder / "llama.gguf").touch()  # beside safetensors
    assert open_model("llama", root=tmp_path).path == folder


def test_absent_file_and_revision_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no GGUF file at .*absent\.gguf: give an existing"):
        open_model("absent.gguf", root=tmp_path)
    write_gguf(tmp_path / "model.gguf")
    with pytest.raises(
        ValueError, match=r"revision is for Hub ids only, got 'main' for .*\.gguf"
    ):
        open_model("model.gguf", revision="main", root=tmp_path)


def test_check_finds_faults_without_converting(tmp_path, monkeypatch):
    monkeypatch.setenv("SEME_CACHE_DIR", str(tmp_path / "cache"))
    check_gguf(write_gguf(tmp_path / "model.gguf"), root=tmp_path)
    assert not (tmp_path / "cache" / "gguf").exists()
    bad = write_gguf(tmp_path / "bad.gguf", more={"general.architecture": "mamba"})
    with pytest.raises(ValueError, match=r"bad\.gguf has the architecture 'mamba'"):
        check_gguf(bad, root=tmp_path)
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"bad\.gguf is not a GGUF file"):
        check_gguf(bad, root=tmp_path)
