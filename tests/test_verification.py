"""Verification: one flipped byte, missing and added files, links out, and merges made again."""

import json
import os
import shutil

import pytest

from scripts.verify import main
from seme.publishing.manifest import MANIFEST_NAME, read_manifest
from seme.publishing.rederivation import rederive
from seme.publishing.verification import verify_folder
from tests.adapters import pair, write_adapter
from tests.kept_merges import keep

DARE = {
    "_target_": "baselines.dare.merge", "_partial_": True,
    "density": 0.5, "lam": 0.4, "weights": None,
}  # fmt: skip
OPTIONS = {"device": "cpu"}


@pytest.fixture(scope="module")
def made(make_llama, tmp_path_factory):
    """Inputs and a kept merge in two shards and more."""
    root = tmp_path_factory.mktemp("made")
    for seed, name in enumerate(("base", "code", "french")):
        make_llama(root / name, seed)
    lora = write_adapter(root / "base", pair(rank=1), r=1)
    sources = ["code", "french", {"path_to_adapter": str(lora), "location": "base"}]
    models = {"name": "three", "pivot": "base", "sources": sources}
    keep(root, models, method=DARE, max_shard_size="0.01MB")
    return root


@pytest.fixture
def kept(made, tmp_path):
    return shutil.copytree(made / "kept", tmp_path / "kept")


@pytest.fixture
def root(made, tmp_path):
    """A copy of the inputs that a test may change."""
    for name in ("base", "code", "french", "adapter"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def problems(folder):
    return list(verify_folder(folder).problems)


def test_whole_folder_has_no_problems(kept):
    found = verify_folder(kept)
    assert found.problems == ()
    assert found.sound == found.manifest.files.keys()
    assert len(found.sound) > 4


def test_one_flipped_bit_is_found_in_every_file_and_place(kept):
    for name, entry in read_manifest(kept).files.items():
        for place in {0, entry.bytes // 2, entry.bytes - 1}:
            flip(kept / name, place)
            (problem,) = problems(kept)
            assert problem.startswith(f"{name} differs: its SHA-256 is ")
            flip(kept / name, place)
    assert problems(kept) == []


def test_missing_shortened_and_added_files_are_named(kept):
    (kept / "config.json").unlink()
    (kept / "generation_config.json").write_text("{}")
    (kept / "modeling.py").write_text("")
    (kept / "sub").mkdir()
    (kept / "sub/x.bin").write_text("")
    (kept / ".hidden").symlink_to("/etc")
    assert problems(kept) == [
        "config.json is missing",
        f"generation_config.json has 2 bytes, the manifest has {_size(kept)}",
        ".hidden is not in the manifest",
        "modeling.py is not in the manifest",
        "sub/x.bin is not in the manifest",
    ]


def _size(kept):
    return json.loads((kept / MANIFEST_NAME).read_text())["files"]["generation_config.json"][
        "bytes"
    ]


def test_card_record_and_the_files_of_git_may_be_changed(kept):
    (kept / "README.md").write_text("mine")
    (kept / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (kept / "record.json").write_text("{}")
    for folder in (".git", ".cache/huggingface"):
        (kept / folder).mkdir(parents=True)
        (kept / folder / "x").write_text("")
    assert problems(kept) == []


def test_many_added_files_are_counted(kept):
    for i in range(15):
        (kept / f"x{i:02}").write_text("")
    assert problems(kept)[-2:] == [
        "x09 is not in the manifest", "5 more files are not in the manifest"
    ]  # fmt: skip


def test_files_outside_the_folder_and_pipes_are_not_opened(kept, tmp_path):
    shard = next(iter(sorted(kept.glob("*.safetensors"))))
    shutil.move(shard, tmp_path / "elsewhere")  # the same bytes, but not in the folder
    shard.symlink_to(tmp_path / "elsewhere")
    (kept / "config.json").unlink()
    os.mkfifo(kept / "config.json")
    pipe, link = problems(kept)
    assert "must be a regular file, it is a named pipe" in pipe
    assert "outside the model's folder" in link


def test_manifest_of_another_merge_does_not_fit(kept, made):
    models = {"name": None, "pivot": "base", "sources": ["code"]}
    other = keep(made, models, "other", method=DARE)
    shutil.copy(other / MANIFEST_NAME, kept)
    found = problems(kept)
    assert found[0] == "model.safetensors is missing"
    assert "model.safetensors.index.json is not in the manifest" in found


def test_merge_is_made_again_byte_for_byte(kept, root):
    manifest = read_manifest(kept)
    before = {path.name for path in root.iterdir()}
    assert rederive(manifest, kept, root=root, machine=OPTIONS) == []
    assert {path.name for path in root.iterdir()} == before


def test_tensor_that_was_changed_is_named(kept, root):
    manifest = read_manifest(kept)
    shard = max(kept.glob("*.safetensors"))
    flip(shard, shard.stat().st_size - 1)
    (line,) = rederive(manifest, kept, root=root, machine=OPTIONS)
    assert line.endswith("differ from those made again: model.norm.weight")
    assert line.startswith("1 of 21 tensors ")


def test_other_settings_and_versions_are_named(kept, root):
    manifest = read_manifest(kept)
    other = manifest.model_copy(
        update={
            "settings": {**manifest.settings, "seed": 1},
            "versions": {"libraries": {"torch": "0.1"}},
        }
    )
    lines = rederive(other, kept, root=root, machine=OPTIONS)
    assert any("made again differs: its SHA-256 is" in line for line in lines)
    assert lines[-1].startswith("torch was 0.1, here it is ")


def test_input_that_is_another_is_named_and_not_merged(kept, root):
    flip(root / "code/model.safetensors", -1)
    (line,) = rederive(read_manifest(kept), kept, root=root, machine=OPTIONS)
    assert line.startswith("model.safetensors of the input code differs: its SHA-256 is ")


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (None, 0, "every byte is the manifest's"),
        ("flip", 1, "differs: its SHA-256"),
        ("no input", 1, "not made again: code is neither a folder"),
        ("method", 1, "not made again: a method's _target_ is in"),
        ("value", 1, "not made again: "),
        ("manifest", 1, "error: "),
    ],
)
def test_command_says_what_differs(change, code, told, kept, root, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # the command sets it; set back after the test
    content = json.loads((kept / MANIFEST_NAME).read_text())
    if change == "flip":
        flip(next(kept.glob("*.safetensors")), -1)
    elif change == "no input":
        shutil.rmtree(root / "code")
    elif change == "method":
        content["method"]["config"]["_target_"] = "os.system"
    elif change == "value":
        content["method"]["config"]["density"] = {"a": []}
    elif change == "manifest":
        content["files"] = {"../../etc/passwd": {}}
    (kept / MANIFEST_NAME).write_text(json.dumps(content))
    assert main([str(kept), "rederive=true", "device=cpu"], root) == code
    shown = capsys.readouterr()
    assert told in shown.out + shown.err
    assert "Traceback" not in shown.out + shown.err


@pytest.mark.parametrize("more", [[], ["rederive=yes"], ["scratch=1"], ["a", "b"], ["absent"]])
def test_arguments_that_cannot_be_read(more, capsys):
    assert main(more) == 2
    assert "usage: verify FOLDER" in capsys.readouterr().err
