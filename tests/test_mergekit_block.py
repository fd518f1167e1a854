"""mergekit's configuration of a merge: valid, its numbers ours, or the difference named."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from seme.publishing.manifest import Manifest, read_manifest
from seme.publishing.mergekit_block import mergekit_block
from tests.kept_merges import keep
from tests.test_manifest import INPUT, MANIFEST

CONFIGS = Path(__file__).resolve().parents[1] / "conf" / "method"
LOCAL = {"commit": None, "entry": {"location": "./a"}}
CHANGES = {"weights": [0.25, 0.75], "lam": 0.5, "t": 0.25}
EQUAL = ("average", "task_arithmetic", "model_stock", "slerp", "multislerp", "karcher")


def method_of(name, **values):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    config = {key: 0.5 if value == "${tau}" else value for key, value in config.items()}
    return {**config, **values}


def manifest_of(name="average", sources=({}, {}), settings=None, **values):
    content = {
        **MANIFEST,
        "sources": [{**INPUT, "name": f"m{i}", **one} for i, one in enumerate(sources)],
        "method": {**MANIFEST["method"], "name": name, "config": method_of(name, **values)},
        "settings": {**MANIFEST["settings"], **(settings or {})},
    }
    return Manifest.model_validate(content)


@pytest.mark.parametrize(
    "name", [*EQUAL, "ties", "dare", "dare_ties", "della", "breadcrumbs", "sce"]
)
def test_block_is_a_configuration_of_mergekit(name):
    configuration = pytest.importorskip("mergekit.config").MergeConfiguration
    n_sources = 1 if name == "slerp" else 2
    block, differences = mergekit_block(
        manifest_of(name, ({},) * n_sources), out_dtype="bfloat16"
    )
    config = configuration.model_validate(yaml.safe_load(block))
    assert config.dtype == "float32"
    assert config.out_dtype == "bfloat16"
    assert (differences == []) == (name in EQUAL)


@pytest.mark.parametrize("name", EQUAL)
def test_mergekit_makes_the_same_numbers(name, make_llama, tmp_path, monkeypatch):
    merge = pytest.importorskip("mergekit.merge")
    from mergekit.config import MergeConfiguration  # noqa: PLC0415
    from mergekit.options import MergeOptions  # noqa: PLC0415

    n_sources = 1 if name == "slerp" else 2
    folders = [str(make_llama(tmp_path / f"m{i}", i)) for i in range(n_sources + 1)]
    models = {"name": None, "pivot": folders[0], "sources": folders[1:]}
    own = method_of(name)
    own |= {k: v for k, v in CHANGES.items() if k in own and name != "karcher"}
    kept = keep(tmp_path, models, method=own)
    manifest = read_manifest(kept)
    block, _ = mergekit_block(manifest, out_dtype="float32")
    monkeypatch.chdir(tmp_path)  # where the relative folders of the block are
    options = MergeOptions(quiet=True, write_model_card=False, copy_tokenizer=False)
    merge.run_merge(MergeConfiguration.model_validate(yaml.safe_load(block)),
                    str(tmp_path / "theirs"), options)  # fmt: skip
    theirs = {}
    for shard in (tmp_path / "theirs").glob("*.safetensors"):
        theirs |= load_file(shard)
    ours = load_file(kept / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for tensor, values in ours.items():
        assert torch.allclose(values, theirs[tensor], rtol=1e-4, atol=1e-6), tensor


def test_revisions_and_adapters_are_in_mergekits_grammar():
    lora = {"path_to_adapter": "org/lora", "location": "org/b"}
    adapted = {"entry": lora, "commit": "c1", "base_commit": "c2"}
    block, _ = mergekit_block(manifest_of(sources=({}, adapted, LOCAL)), out_dtype=None)
    names = [model["model"] for model in yaml.safe_load(block)["models"]]
    assert names == ["org/base@c0", "org/b@c2+org/lora@c1", "./a"]
    reference = pytest.importorskip("mergekit.common").ModelReference.parse(names[1])
    assert (reference.model.path, reference.model.revision) == ("org/b", "c2")
    assert (reference.lora.path, reference.lora.revision) == ("org/lora", "c1")


def test_weights_and_scale_are_those_of_the_merge():
    manifest = manifest_of("task_arithmetic", lam=0.3, weights=[1, 2.5])
    block, _ = mergekit_block(manifest, out_dtype=None)
    content = yaml.safe_load(block)
    assert [model["parameters"]["weight"] for model in content["models"]] == [1, 2.5]
    assert content["parameters"] == {"normalize": False, "lambda": 0.3}
    assert content["base_model"] == "org/base@c0"
    assert math.isclose(manifest.method.config["lam"], 0.3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "consensus"}, "mergekit has no method consensus"),
        ({"settings": {"exclude": ["*.mlp.*"]}}, "exclude has no counterpart"),
        ({"settings": {"include": ["*.mlp.*"]}}, "include has no counterpart"),
        ({"settings": {"overrides": [{"match": "*", "lam": 1}]}}, "overrides has no"),
        ({"name": "sce", "lam": 0.5}, "mergekit's sce has neither lam"),
        ({"name": "karcher", "origin": "pivot"}, "mergekit's karcher has neither"),
        ({"sources": [{"entry": {"location": "a", "layers": [[0, 1]]}}]}, "stacked layers are"),
        (
            {"sources": [{"entry": {"path_to_adapter": "a"}}]},
            "the base of the adapter a is not",
        ),
    ],
)
def test_what_mergekit_cannot_be_told_is_named(changes, reason):
    block, (line,) = mergekit_block(manifest_of(**changes), out_dtype=None)
    assert block is None
    assert line.startswith(reason)


def test_method_of_the_same_name_from_another_module_has_no_block():
    manifest = manifest_of("ties", _target_="baselines.mine.merge")
    assert mergekit_block(manifest, out_dtype=None)[0] is None
