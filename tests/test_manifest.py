"""Manifests: read back as written; damaged and hostile ones are refused by name."""

import copy
import json
import os

import pytest

from seme.publishing.manifest import (
    MANIFEST_NAME,
    Manifest,
    is_inner_name,
    manifest_text,
    parse_manifest,
    read_manifest,
)

FILE = {"sha256": "0" * 64, "bytes": 5}
INPUT = {
    "name": "base", "entry": {"location": "org/base"}, "commit": "c0", "base_commit": None,
    "content_hash": "h", "licence": "mit", "base_licence": None,
    "files": {"model.safetensors": FILE}, "base_files": {}, "more": {},
}  # fmt: skip
MANIFEST = {
    "schema_version": 1,
    "command": "python run.py",
    "method": {
        "name": "average", "code": "a", "numbers": 1,
        "config": {"_target_": "baselines.average.merge", "_partial_": True, "weights": None},
    },
    "settings": {"seed": 0, "dtype": None, "include": ["*"], "exclude": [], "tokens": "same"},
    "pool": "p", "pivot": INPUT, "sources": [{**INPUT, "name": "code"}],
    "versions": {}, "n_parameters": 3, "n_bytes": 5,
    "files": {"model.safetensors": FILE, "additional_chat_templates/a.jinja": FILE},
}  # fmt: skip


def changed(path, value):
    """The manifest with one entry changed; a value of None removes it."""
    content = copy.deepcopy(MANIFEST)
    *parents, last = path.split("/")
    place = content
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return content


def test_manifest_is_read_as_it_was_written(tmp_path):
    manifest = Manifest.model_validate(MANIFEST)
    (tmp_path / MANIFEST_NAME).write_text(manifest_text(manifest))
    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("files", None, r"^m: files: Field required"),
        ("extra", 1, r"^m: extra: Extra inputs are not permitted, got 1"),
        ("schema_version", 2, r"^m: schema_version: Input should be 1, got 2"),
        ("n_parameters", "3", r"^m: n_parameters: Input should be a valid integer, got '3'"),
        (
            "files/model.safetensors",
            {**FILE, "sha256": "0"},
            "files.model.safetensors.sha256: ",
        ),
        (
            "files/model.safetensors",
            {**FILE, "bytes": -1},
            "greater than or equal to 0, got -1",
        ),
        ("files/model.safetensors", {**FILE, "bytes": 2**70}, "less than 9223372036854775808"),
        ("files", {"config.json": FILE}, "files must have weights"),
        ("files/merge_manifest.json", FILE, "must not have merge_manifest.json itself"),
        ("settings/seed", None, "settings must have seed"),
        ("sources/0/licence", 3, "sources.0.licence: Input should be a valid string, got 3"),
        ("sources", "x" * 10**6, r"sources: Input should be a valid list, got 'x{20,50}\.\.\."),
    ],
)
def test_wrong_entry_is_named(path, value, message):
    with pytest.raises(ValueError, match=message) as refused:
        parse_manifest(changed(path, value), what="m")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b/c", "", "a//b", "..", "a/..", "a\nb", "a\\b", "\ud800"]
)
def test_file_outside_the_folder_is_refused(name):
    assert not is_inner_name(name)
    for place in ("files", "pivot/files", "sources/0/base_files"):
        with pytest.raises(ValueError, match=r"files must be names in the folder"):
            parse_manifest(changed(f"{place}", {"w.safetensors": FILE, name: FILE}), what="m")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be parsed"),
        (b"[]", "must hold a JSON object"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "cannot be parsed|nested"),
        (b'{"a": 1, "a": 2}', "duplicate name 'a'"),
        (b'{"a": "\xff"}', "cannot be parsed"),
        (b'{"n": ' + b"9" * 100 + b"}", "a number of 100 digits"),
        (b" " * 16_000_001, "expected at most 16000000"),
        (b"[" + b"[]," * 300_000 + b"1]", "too large"),
    ],
)
def test_damaged_file_is_refused(content, message, tmp_path):
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path)


def test_a_thousand_shards_of_ten_inputs_are_read(tmp_path):
    shards = {f"model-{i:05d}-of-01000.safetensors": FILE for i in range(1000)}
    model = {**MANIFEST["pivot"], "files": shards}
    content = {**MANIFEST, "files": shards, "pivot": model, "sources": [model] * 9}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(content, indent=2))
    assert len(read_manifest(tmp_path).sources) == 9


def test_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no merge_manifest.json: expected a folder that"):
        read_manifest(tmp_path)
    (tmp_path / "outside.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / MANIFEST_NAME).symlink_to(tmp_path / "outside.json")
    with pytest.raises(ValueError, match="outside the model's folder"):
        read_manifest(tmp_path / "in")
    os.mkfifo(tmp_path / MANIFEST_NAME)
    with pytest.raises(ValueError, match="must be a regular file, it is a named pipe"):
        read_manifest(tmp_path)
