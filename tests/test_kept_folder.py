"""Kept merges: manifest and card in a folder that appears whole, or not at all."""

import hashlib
import json
import logging

import pytest
from huggingface_hub import EvalResult
from safetensors.torch import load_file

from seme.publishing.kept_folder import add_scores, kept_folder
from seme.publishing.manifest import read_manifest
from tests.adapters import pair, write_adapter
from tests.kept_merges import job_of, keep

RESULTS = [
    EvalResult("text-generation", "pick", "pick", "acc", 0.625, metric_args={"n_samples": 8}),
    EvalResult("text-generation", "pick", "pick", "acc_stderr", 0.18, metric_args={"n_samples": 8}),
]  # fmt: skip


@pytest.fixture
def pool(make_llama, tmp_path):
    for seed, name in enumerate(("base", "code", "french")):
        make_llama(tmp_path / name, seed)
    return {"name": "three", "pivot": "base", "sources": ["code", {"location": "french"}]}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_manifest_has_the_digest_of_every_file_of_inputs_and_output(pool, tmp_path):
    folder = keep(tmp_path, pool)
    manifest = read_manifest(folder)
    names = {"model.safetensors", "config.json", "generation_config.json"}
    assert manifest.files.keys() == names
    for name in names:
        assert manifest.files[name].sha256 == sha256(folder / name)
        assert manifest.files[name].bytes == (folder / name).stat().st_size
    for model, source in zip(manifest.models, ("base", "code", "french"), strict=True):
        assert {n: f.sha256 for n, f in model.files.items()} == {
            n: sha256(tmp_path / source / n) for n in names
        }
    assert manifest.n_bytes == sum((folder / name).stat().st_size for name in names)
    weights = load_file(folder / "model.safetensors").values()
    assert manifest.n_parameters == sum(t.numel() for t in weights)
    assert manifest.method.config["density"] == 0.5
    assert manifest.settings.keys() == {"seed", "dtype", "include", "exclude", "tokens"}


@pytest.mark.usefixtures("pool")
def test_the_same_merge_has_the_same_manifest(tmp_path):
    first, second = (keep(tmp_path / "out", located(tmp_path), n) for n in ("a", "b"))
    texts = [(f / "merge_manifest.json").read_text() for f in (first, second)]
    assert texts[0].replace("merged_dir=a", "merged_dir=b") == texts[1]


def located(folder):
    return {"name": "three", "pivot": f"{folder}/base", "sources": [f"{folder}/code"]}


@pytest.mark.usefixtures("pool")
def test_home_is_not_named_in_manifest_and_card(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    folder = keep(tmp_path / "elsewhere", located(tmp_path))
    assert read_manifest(folder).pivot.entry == {"location": "~/base"}
    for name in ("merge_manifest.json", "README.md"):
        assert str(tmp_path) not in (folder / name).read_text()


def test_adapter_has_its_own_files_and_those_of_its_base(pool, tmp_path):
    lora = write_adapter(tmp_path / "base", pair(rank=1), r=1)
    source = {"path_to_adapter": str(lora), "location": "base", "name": "lora"}
    manifest = read_manifest(keep(tmp_path, {**pool, "sources": [source]}))
    (described,) = manifest.sources
    assert described.files.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert described.base_files == manifest.pivot.files


def test_nothing_is_left_by_a_merge_that_fails(pool, tmp_path):
    job, config = job_of(tmp_path, pool)
    before = {path.name for path in tmp_path.iterdir()}

    def fail():
        with kept_folder(tmp_path / "kept", job, config, root=tmp_path) as folder:
            job.run(folder, progress=False)
            assert not (tmp_path / "kept").exists()
            raise OSError("disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert {path.name for path in tmp_path.iterdir()} == before


def test_folder_of_the_user_is_refused_and_kept(pool, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/README.md").write_text("mine")
    with pytest.raises(ValueError, match="already exists"):
        keep(tmp_path, pool)
    assert (tmp_path / "kept/README.md").read_text() == "mine"


def test_scores_are_added_to_the_card(pool, tmp_path):
    folder = keep(tmp_path, pool)
    before = (folder / "README.md").read_text()
    assert add_scores(folder, RESULTS)
    after = (folder / "README.md").read_text()
    assert "| pick | acc | 0.6250 | 0.1800 | 8 |" in after
    assert before.rpartition("## Make it again")[2] in after
    assert {path.name for path in folder.glob(".*")} == set()


@pytest.mark.parametrize("change", ["edited", "removed"])
def test_card_that_the_user_changed_is_left_alone(change, pool, tmp_path, caplog):
    card = keep(tmp_path, pool) / "README.md"
    if change == "edited":
        card.write_text("mine")
    else:
        card.unlink()
    with caplog.at_level(logging.WARNING):
        assert not add_scores(card.parent, RESULTS)
    assert "scores are not added" in caplog.text
    assert card.exists() == (change == "edited")
    assert change == "removed" or card.read_text() == "mine"


def test_licence_that_forbids_merging_is_warned_of(pool, tmp_path, caplog):
    (tmp_path / "code/README.md").write_text("---\nlicense: cc-by-nd-4.0\n---\n# Code\n")
    with caplog.at_level(logging.WARNING):
        folder = keep(tmp_path, pool)
    told = "code (cc-by-nd-4.0): FORBIDS MERGING"
    assert told in caplog.text
    assert told in (folder / "README.md").read_text()


def test_weights_are_split_into_shards_of_a_size(pool, tmp_path):
    whole, split = (
        keep(tmp_path, pool, name, max_shard_size=size)
        for name, size in (("whole", "5GB"), ("split", "0.01MB"))
    )
    index = json.loads((split / "model.safetensors.index.json").read_text())["weight_map"]
    shards = {path.name: load_file(path) for path in split.glob("*.safetensors")}
    assert len(shards) > 1
    for tensors in shards.values():
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 10_000
    for name, values in load_file(whole / "model.safetensors").items():
        assert shards[index[name]][name].equal(values)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("0MB", "max_shard_size must be more than nothing"),
        ("5", "max_shard_size must be a size"),
    ],
)
def test_size_of_shards_is_checked(size, message, pool, tmp_path):
    with pytest.raises(ValueError, match=message):
        job_of(tmp_path, pool, max_shard_size=size)
