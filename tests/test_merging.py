"""A merge from Python: the command's bytes, record and errors, in any folder."""

import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from eval.records import read_record
from eval.results_folder import load_results
from seme import merge
from seme.binding import hyper_parameter_names
from seme_bench.cell import run_cell
from seme_bench.entries import _VALUES as TOP_LEVEL
from seme_bench.folders import HOME
from seme_bench.repetition import command_of
from tests.adapters import ADAPTERS, pair, save_adapter, write_adapter
from tests.configurations import CONF, assembled
from tests.golden_merges import method_of

TIMES = {"started_at", "seconds_total", "merge_cost", "origin"}


@pytest.fixture
def pool(make_llama, tmp_path, monkeypatch):
    """Three tiny models in the current folder, which is none of the repository's."""
    for seed, name in enumerate(("base", "code", "french")):
        make_llama(tmp_path / name, seed)
    monkeypatch.chdir(tmp_path)
    return {"pivot": "base", "sources": ["code", tmp_path / "french"]}


def test_bytes_and_record_are_those_of_the_command(pool, tmp_path):
    record = merge("ties", **pool, out="merged", density=0.3, lam=2.0, seed=5, results="listed")
    sources = f"models.sources=[code,{tmp_path}/french]"
    config = assembled(
        "method=ties", "tau=0.3", "method.lam=2.0", "seed=5", "suite=none", "tracker=none",
        "models=custom", "models.pivot=base", sources, f"output={tmp_path}/out",
        f"merged_dir={tmp_path}/by_command",
    )  # fmt: skip
    config["suite"]["name"] = "none"
    theirs = run_cell(config, method_name="ties", group="g", label="ties", root=tmp_path)
    ours, command = (
        load_file(tmp_path / f / "model.safetensors") for f in ("merged", "by_command")
    )
    assert ours.keys() == command.keys()
    assert all((ours[name] == command[name]).all() for name in ours)
    written = json.loads((tmp_path / "merged/record.json").read_text())
    expected = json.loads(
        (tmp_path / f"out/runs/ties-{theirs.fingerprint[:12]}/record.json").read_text()
    )
    assert {k for k in expected if written[k] != expected[k]} <= TIMES
    assert read_record(tmp_path / "merged/record.json").fingerprint == record.fingerprint
    (listed,) = load_results(tmp_path / "listed").runs
    assert listed.record.fingerprint == record.fingerprint


def test_only_the_new_folder_is_written_and_never_over_another(pool, tmp_path):
    before = {path.name for path in tmp_path.iterdir()}
    record = merge("average", **pool, out=tmp_path / "new" / "merged")
    assert {path.name for path in tmp_path.iterdir()} - before == {"new"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["merged"]
    assert (record.status, record.suite, record.merge["n_merged"]) == ("done", None, 21)
    assert record.models.pivot.location == "base"
    with pytest.raises(ValueError, match="already exists: a merge writes a new folder"):
        merge("average", **pool, out="new/merged")


def test_tau_sets_what_the_method_s_file_takes_from_it(pool):
    by_tau = merge("ties", **pool, out="a", tau=0.3)
    by_density = merge("ties", **pool, out="b", density=0.3)
    assert by_tau.fingerprint == by_density.fingerprint
    assert by_tau.settings["density"] == 0.3


def test_a_mapping_changes_the_entries_that_it_has(pool):
    record = merge("seme", **pool, out="a", alignment={"anchors": "head"})
    assert record.settings["alignment.anchors"] == "head"
    assert record.settings["alignment.projection"] == "orthogonal"


def test_an_adapter_is_a_source(pool, tmp_path):
    adapter = write_adapter(tmp_path / "base", pair())
    sources = [{"path_to_adapter": adapter, "name": "mine"}, *pool["sources"]]
    record = merge("average", pivot="base", sources=sources, out="a")
    assert [source.name for source in record.models.sources] == ["mine", "code", "french"]
    with pytest.raises(ValueError, match="the pivot must be a checkpoint of its own"):
        merge("average", pivot=sources[0], sources=["code"], out="b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "tiess"}, "there is no method=tiess, only .*did you mean method=ties?"),
        ({"densty": 0.2}, "there is no entry method.densty; did you mean method.density?"),
        ({"sede": 0}, "there is no entry method.sede; did you mean seed?"),
        ({"density": 1.5}, r"density must be in \(0, 1\], got 1.5"),
        ({"dtype": "bfloat"}, "dtype must be one of .*did you mean bfloat16?"),
        ({"sources": []}, "merges at least 1 source into the pivot, got 0"),
        ({"sources": "code"}, r"models.sources must be a list such as \[A,B\], got 'code'"),
        ({"pivot": "./bse"}, r"(?s)no model folder at .*/bse.*; did you mean base\?"),
        ({"pivot": {"loction": "base"}}, "did you mean location?"),
        ({"out": "/proc/x"}, "out=/proc/x: nothing can be written in"),
        ({"out": "a\nb"}, r"out must be a folder, got 'a\\nb'"),
        ({"results": 5}, "results must be a folder, got 5"),
        ({"results": "/proc/x"}, "results=/proc/x: nothing can be written in"),
        ({"overrides": [{"lamb": 1}]}, "lamb"),
        ({"_target_": "os.system"}, "there is no entry method._target_"),
        ({"merged_as": "lora"}, "merged_as must be one of adapter, model, got 'lora'"),
        ({"adapter_rank": 4}, "adapter_rank=4 needs merged_as=adapter, got model"),
        ({"merged_as": "adapter", "adapter_rank": 0}, "adapter_rank must be .*got 0"),
        ({"merged_as": "adapter"}, "merged_as=adapter merges LoRA adapters, source 0"),
        ({"include": ["x.*"]}, "the pattern 'x.*' matches no tensor"),
    ],
)  # fmt: skip
def test_errors_are_the_command_s_and_nothing_is_written(changes, message, pool, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    values = {"method": "ties", **pool, "out": "merged", **changes}
    with pytest.raises(ValueError, match=message):
        merge(values.pop("method"), **values)
    assert sorted(tmp_path.rglob("*")) == before


def test_overrides_are_the_command_s(pool):
    record = merge(
        "ties",
        **pool,
        out="merged",
        overrides=[{"match": "*.mlp.*", "lam": 0.0, "density": 1.0}],
    )
    assert "*.mlp.*" in str(record.settings["overrides"])
    base, merged = (load_file(f"{name}/model.safetensors") for name in ("base", "merged"))
    alike = {name for name in base if torch.equal(base[name], merged[name])}
    assert {name for name in base if ".mlp." in name} <= alike
    assert "model.embed_tokens.weight" not in alike


def repeated(folder, out="repeated"):
    """Run the call in a folder's manifest, in a process of its own, to another folder."""
    call = json.loads((folder / "merge_manifest.json").read_text())["command"]
    assert f"out='{folder.name}'" in call
    call = call.replace(f"out='{folder.name}'", f"out={out!r}")
    environment = os.environ | {"PYTHONPATH": str(HOME)}
    subprocess.run([sys.executable, "-c", call], check=True, env=environment)
    return folder.with_name(out)


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("seme", {"tau": 0.3, "seed": 3, "dtype": "float16", "alignment": {"anchors": "head"}}),
        ("dare", {"exclude": ["*.mlp.*"], "overrides": [{"match": "*norm*", "lam": 0.5}]}),
    ],
)
def test_the_manifest_s_call_makes_the_merge_again(method, values, pool, tmp_path):
    record = merge(method, **pool, **values, out="merged", max_shard_size="20MB")
    again = repeated(tmp_path / "merged")
    for name in ("model.safetensors", "config.json"):
        assert (again / name).read_bytes() == (tmp_path / "merged" / name).read_bytes()
    second = read_record(again / "record.json")
    assert (second.fingerprint, second.settings) == (record.fingerprint, record.settings)
    assert command_of(record) == record.origin["command"]
    card = (tmp_path / "merged/README.md").read_text()
    assert f"```python\n{record.origin['command']}\n```" in card


@pytest.mark.usefixtures("pool")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_sources_of_an_adapter_merge_become_one_lora_of_the_command_s_bytes(tmp_path):
    first, second = (
        save_adapter(tmp_path / "base", name, i, **options)
        for i, (name, options) in enumerate(ADAPTERS.items())
    )
    sources = [{"path_to_adapter": first}, {"path_to_adapter": second, "name": "b"}]
    options = {"merged_as": "adapter", "overrides": [{"match": "*.q_proj.*", "lam": 0.5}]}
    merge("task_arithmetic", pivot="base", sources=sources, out="exact", **options)
    listed = f"[{{path_to_adapter: {first}}}, {{path_to_adapter: {second}, name: b}}]"
    config = assembled(
        "method=task_arithmetic", "suite=none", "tracker=none", "models=custom",
        "models.pivot=base", f"models.sources={listed}", f"output={tmp_path}/out",
        "merged_as=adapter", "overrides=[{match: '*.q_proj.*', lam: 0.5}]",
        f"merged_dir={tmp_path}/by_command",
    )  # fmt: skip
    run_cell(config, method_name="task_arithmetic", group="g", label="", root=tmp_path)
    weights = [tmp_path / f / "adapter_model.safetensors" for f in ("exact", "by_command")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    record = merge(
        "ties",
        pivot="base",
        sources=sources,
        out="truncated",
        merged_as="adapter",
        adapter_rank=2,
    )
    assert record.merge["diagnostics"]["adapter"]["rank"] == 2
    again = repeated(tmp_path / "truncated") / "adapter_model.safetensors"
    assert again.read_bytes() == (tmp_path / "truncated" / again.name).read_bytes()


def test_no_hyper_parameter_has_the_name_of_an_entry_but_tau():
    names = {
        path.stem: hyper_parameter_names(method_of(path.stem))
        for path in CONF.glob("method/*.yaml")
    }
    named = TOP_LEVEL | {"pivot", "sources", "out", "results", "progress"}
    shared = {name for of_method in names.values() for name in of_method & named}
    assert shared == {"tau"}


def test_a_warning_is_logged_and_recorded(pool, tmp_path, caplog):
    config = tmp_path / "code/config.json"
    config.write_text(
        config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05')
    )
    with caplog.at_level(logging.WARNING):
        record = merge("average", **pool, out="a")
    assert record.merge["warnings"] == [r.getMessage() for r in caplog.records]
    assert any(
        "norm_eps: 1e-06 expected, 1e-05 found" in warning
        for warning in record.merge["warnings"]
    )
