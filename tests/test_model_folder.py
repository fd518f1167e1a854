"""Model folders: local ones, snapshots in the Hub's cache with their commit, JSON files."""

import json
import re

import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save

from seme.checkpoint.lora import open_adapter
from seme.checkpoint.model_folder import locate, read_config, read_object
from seme.checkpoint.reader import open_checkpoint

COMMIT, OLDER = "c" * 40, "0" * 40
MODEL = {
    "config.json": b'{"model_type": "toy"}',
    "model.safetensors": save({"a": torch.ones(2)}),
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the Hub, and no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache, commit, files, *, hub_id="org/name", **refs):
    """Lay out a snapshot as huggingface_hub does: blobs, and links to them by commit."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for folder in ("blobs", "refs"):
        (repository / folder).mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        blob = repository / "blobs" / f"{commit[0]}-{name}"
        blob.write_bytes(content)
        (snapshot / name).symlink_to(blob)
    for ref, target in refs.items():
        (repository / "refs" / ref).write_text(target)
    return snapshot


def test_cached_snapshot_is_used_offline_with_its_commit(cache, tmp_path):
    snapshot = put(cache, COMMIT, MODEL, main=COMMIT)
    model = open_checkpoint("org/name", root=tmp_path)
    assert (model.path, model.commit) == (snapshot, COMMIT)
    assert model.read("a").tolist() == [1.0, 1.0]
    assert len(model.content_hash()) == 32


@pytest.mark.parametrize("revision", ["v1", OLDER])
def test_revision_selects_its_snapshot(cache, tmp_path, revision):
    put(cache, COMMIT, MODEL, main=COMMIT, v1=OLDER)
    put(cache, OLDER, MODEL)
    assert open_checkpoint("org/name", revision=revision, root=tmp_path).commit == OLDER


def test_adapter_and_base_have_separate_commits(cache, tmp_path):
    put(cache, COMMIT, MODEL, v2=COMMIT)
    config = {"base_model_name_or_path": "org/name", "revision": "v2", "peft_type": "LORA"}
    config |= {"r": 1, "lora_alpha": 1}
    files = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save({"base_model.model.a": torch.zeros(2)}),
    }
    put(cache, OLDER, files, hub_id="org/lora", main=OLDER, v1=COMMIT)
    put(cache, COMMIT, files, hub_id="org/lora")
    model = open_adapter("org/lora", root=tmp_path)
    assert (model.commit, model.base.commit) == (OLDER, COMMIT)
    assert open_adapter("org/lora", revision="v1", root=tmp_path).commit == COMMIT


def test_local_folder_has_no_commit(tmp_path):
    model = locate(tmp_path, revision=None, root=tmp_path)
    assert (model.folder, model.commit) == (tmp_path, None)


def test_uncached_model_names_the_download_command_offline(cache, tmp_path):
    advice = (
        r"org/name is neither a folder .*HF_HUB_OFFLINE is set: unset it, or run `hf download "
        rf"org/name --revision 'a b'` on .* bring models--org--name from its cache to "
        rf"{re.escape(str(cache))}"
    )
    with pytest.raises(ValueError, match=advice):
        open_checkpoint("org/name", revision="a b", root=tmp_path)


def test_incomplete_snapshot_is_refused(cache, tmp_path):
    snapshot = put(cache, COMMIT, {"config.json": MODEL["config.json"]}, main=COMMIT)
    listed = {name: {"size": 1, "blob_id": "x"} for name in MODEL}
    listing = snapshot.parents[1] / "trees" / f"{COMMIT}.json"
    listing.parent.mkdir()
    listing.write_text(json.dumps({"format_version": 1, "files": listed}))
    with pytest.raises(ValueError, match=r"not whole.*hf download org/name"):
        open_checkpoint("org/name", root=tmp_path)


@pytest.mark.parametrize("cached", [True, False])
def test_unreachable_hub_is_an_error_only_for_uncached_models(
    cache, tmp_path, monkeypatch, cached
):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("seme.checkpoint.hub._silent_since", [])
    if cached:
        put(cache, COMMIT, MODEL, main=COMMIT)
        assert open_checkpoint("org/name", root=tmp_path).commit == COMMIT
    else:
        with pytest.raises(ValueError, match="the Hub cannot be reached: retry, or run `hf"):
            open_checkpoint("org/name", root=tmp_path)


def patch_download(monkeypatch, outcome):
    """Replace the download by its outcome; return the arguments of its calls."""
    arguments = {}

    def fetch(hub_id, **options):
        arguments.update(options, hub_id=hub_id)
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr("seme.checkpoint.hub.hub_answers", lambda: True)
    return arguments


@pytest.mark.parametrize(("switch", "offline"), [("", False), ("0", False), ("True", True)])
def test_hf_hub_offline_disables_the_network(tmp_path, monkeypatch, switch, offline):
    arguments = patch_download(monkeypatch, tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", switch)
    locate("org/name", revision=None, root=tmp_path)
    assert arguments["local_files_only"] is offline


def test_download_excludes_code_and_pickles(tmp_path, monkeypatch):
    arguments = patch_download(monkeypatch, tmp_path / "snapshots" / COMMIT)
    model = locate("org/name", revision="v1", root=tmp_path)
    assert (model.folder.name, model.commit) == (COMMIT, COMMIT)
    assert (arguments["hub_id"], arguments["revision"]) == ("org/name", "v1")
    names = ["m.safetensors", "config.json", "additional_chat_templates/a.jinja"]
    others = ["x.py", "x.bin", "onnx/config.json", "a/b.safetensors", "b/c.jinja"]
    fetched = filter_repo_objects(
        names + others,
        allow_patterns=arguments["allow_patterns"],
        ignore_patterns=arguments["ignore_patterns"],
    )
    assert list(fetched) == names


def test_download_can_exclude_weights(tmp_path, monkeypatch):
    arguments = patch_download(monkeypatch, tmp_path)
    locate("org/name", revision=None, root=tmp_path, weights=False)
    assert "*.json" in arguments["allow_patterns"]
    assert "*.safetensors" not in arguments["allow_patterns"]


@pytest.mark.parametrize("error", [RuntimeError("connection lost"), OSError("401"), "gated"])
def test_hub_error_is_chained_with_advice(tmp_path, monkeypatch, error):
    if error == "gated":
        error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    patch_download(monkeypatch, error)
    message = (
        rf"delivered \({type(error).__name__}\): check the id and the revision, .*auth login"
    )
    with pytest.raises(ValueError, match=message) as caught:
        locate("org/name", revision=None, root=tmp_path)
    assert caught.value.__cause__ is error


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent.*Hub id such as org/name"):
        locate(tmp_path / "absent", revision=None, root=tmp_path)
    with pytest.raises(ValueError, match=r"no model folder at .*eval/zoo/models/absent"):
        locate("eval/zoo/models/absent", revision=None, root=tmp_path)


@pytest.mark.parametrize(
    "location", ["a" * 300, "~nouser/x", "a\0b", "\ud800", "a/" * 5000, "a/b/c"]
)
def test_a_location_that_no_folder_can_have_is_refused_briefly(tmp_path, location):
    with pytest.raises(ValueError, match="no model folder at") as caught:
        locate(location, revision=None, root=tmp_path)
    assert len(str(caught.value)) < 1500
    str(caught.value).encode()


def test_a_revision_of_another_type_is_refused(tmp_path):
    with pytest.raises(ValueError, match="revision of org/name must be text, got 5"):
        locate("org/name", revision=5, root=tmp_path)


def test_a_revision_of_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="revision is for Hub ids only, got 'main'"):
        locate(tmp_path, revision="main", root=tmp_path)


def test_json_object_is_parsed_as_utf8(tmp_path):
    (tmp_path / "config.json").write_text('{"name": "caf\u00e9"}', encoding="utf-8")
    assert read_object(tmp_path / "config.json", of="a model folder") == {"name": "caf\u00e9"}


def test_missing_json_file_names_the_kind_of_folder(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path} has no x\.json: .*PEFT adapter"):
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
def test_file_without_a_json_object_is_refused(tmp_path, content, match):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.json {match}"):
        read_object(tmp_path / "x.json", of="a model folder")


@pytest.mark.parametrize(
    "entries",
    [{"num_labels": 10**9}, {"text_config": {"num_labels": 1e300}}],
    ids=["own", "inner"],
)
def test_configuration_of_more_labels_than_can_be_named_is_refused(entries, tmp_path):
    # transformers makes two dictionaries of that length: 10**9 take minutes and all memory
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **entries}))
    with pytest.raises(
        ValueError, match=r"config\.json: num_labels must be at most 100,000, got 1"
    ):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"num_labels": 1000}')
    assert read_config(tmp_path) == {"num_labels": 1000}
