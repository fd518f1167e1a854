"""Layers stacked anew: tensors, configuration, hash, and merges of such models."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from baselines.average import merge as average
from seme.checkpoint.reader import open_checkpoint
from seme.checkpoint.stacked import StackedCheckpoint
from seme.job import job_from_config
from tests.settings import TOP_LEVEL

AVERAGE = partial(average, weights=None)


@pytest.fixture
def four(model):
    """A model of four layers, each of its own number."""
    tensors = {f"model.layers.{k}.mlp.w": [float(k)] for k in range(4)}
    config = {
        "model_type": "toy", "num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"],
        "layer_sizes": [1, 2], "width": [1, 2, 3, 4],
    }  # fmt: skip
    return model("four", {**tensors, "embed": [9.0]}, config=json.dumps(config))


def test_layers_are_stacked_in_order_some_twice(four):
    stacked = StackedCheckpoint(four, [(2, 4), (0, 3)])
    values = [stacked.read(f"model.layers.{k}.mlp.w").item() for k in range(5)]
    assert values == [2, 3, 0, 1, 2]
    assert stacked.read("embed").item() == 9
    assert len(stacked.names) == 6


def test_configuration_counts_the_layers_and_stacks_lists_of_layers(four):
    config = StackedCheckpoint(four, [(2, 4), (0, 1)]).config
    assert config["num_hidden_layers"] == 3
    assert config["layer_types"] == ["c", "d", "a"]
    assert config["layer_sizes"] == [1, 2]  # not of one entry per layer
    assert config["width"] == [1, 2, 3, 4]  # not of layers
    assert four.config["num_hidden_layers"] == 4


def test_hash_is_of_the_content_and_the_ranges(four):
    hashes = {
        StackedCheckpoint(four, ranges).content_hash()
        for ranges in ([(0, 4)], [(0, 2), (2, 4)], [(0, 3)])
    }
    assert len({*hashes, four.content_hash()}) == 4
    assert StackedCheckpoint(four, [(0, 3)]).content_hash() in hashes


@pytest.mark.parametrize("ranges", [[(0, 5)], [(3, 3)], [(0, 2), (-1, 2)]])
def test_ranges_outside_of_the_layers_are_refused(four, ranges):
    with pytest.raises(
        ValueError, match=r"four: layers must be ranges .* within its 4, got \["
    ):
        StackedCheckpoint(four, ranges)


def test_model_without_countable_layers_is_refused(model):
    bare = model("bare", {"w": [1.0]})
    with pytest.raises(ValueError, match=r"config\.json has num_hidden_layers or n_layer"):
        StackedCheckpoint(bare, [(0, 1)])
    tensors = {"h.0.w": [1.0], "h.1.v": [1.0], "g.1.w": [1.0]}
    other = model("other", tensors, config='{"model_type": "toy", "n_layer": 2}')
    with pytest.raises(ValueError, match="other: layers can be stacked where one stack has"):
        StackedCheckpoint(other, [(0, 1)])


def test_merge_of_stacked_models_writes_their_configuration(four, merge, tmp_path):
    stacked = StackedCheckpoint(four, [(0, 2), (1, 4)])
    merged, report = merge(AVERAGE, stacked, stacked)
    assert [merged[f"model.layers.{k}.mlp.w"].item() for k in range(5)] == [0, 1, 1, 2, 3]
    assert (
        json.loads((tmp_path / "merged" / "config.json").read_text())["num_hidden_layers"] == 5
    )
    assert report.n_merged == 6


@pytest.fixture
def llama(make_llama, tmp_path):
    return make_llama(tmp_path / "llama", seed=3)


def job_of(entry, tmp_path, **models):
    pool = {"pivot": entry, "sources": [entry], **models}
    return job_from_config({**TOP_LEVEL, "models": pool}, "average", AVERAGE, root=tmp_path)


@pytest.mark.usefixtures("llama")
def test_pool_may_have_models_of_stacked_layers(tmp_path):
    job = job_of({"location": "llama", "layers": [[0, 2], [1, 2]]}, tmp_path)
    described = job.pivot.described()
    assert described["layers"] == [[0, 2], [1, 2]]
    assert described["name"].startswith("llama-3-layers-")
    assert job.identity()["pivot"] == described["content_hash"]
    plain = job_of({"location": "llama"}, tmp_path)
    assert "layers" not in plain.pivot.described()
    assert plain.identity()["pivot"] != described["content_hash"]


def test_unmerged_stacked_model_is_written_to_be_evaluated(llama, tmp_path):
    job = job_of({"location": "llama", "layers": [[1, 2], [0, 1]]}, tmp_path)
    folder = job.folder_of(job.pivot, tmp_path / "scratch")
    written, own = (load_file(f / "model.safetensors") for f in (folder, llama))
    name = "model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(written[name.format(0)], own[name.format(1)])
    assert torch.equal(written[name.format(1)], own[name.format(0)])
    assert open_checkpoint(folder, root=tmp_path).config["num_hidden_layers"] == 2


@pytest.mark.usefixtures("llama")
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"layers": [0, 2]}, r"layers of a model must be ranges .*got \[0, 2\]"),
        ({"layers": []}, r"layers of a model must be ranges .*got \[\]"),
        ({"layers": [[0, 2]] * 501}, "layers of a model must be at most 1000 in all, got 1002"),
        ({"layers": [[0, 10**12]]}, "at most 1000 in all, got 1000000000000"),
        ({"layers": [[2, 1]]}, r"layers of a model must be ranges .*got \[\[2, 1\]\]"),
        ({"layers": [[0, 9]]}, r"llama: layers must be ranges .* within its 2, got \[0, 9\]"),
        ({"layers": [[0, 1]], "path_to_adapter": "x"}, "layers are of models that are no adapters"),
    ],
)  # fmt: skip
def test_malformed_layers_are_refused(tmp_path, entry, message):
    with pytest.raises(ValueError, match=message):
        job_of({"location": "llama", **entry}, tmp_path)
