"""Commands that repeat recorded runs: as typed, or written from the entries of old records."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from eval.records import read_record, record_json
from eval.sweep import Sweep
from seme.binding import bind_method, method_settings
from seme_bench.entries import origin_of
from seme_bench.repetition import command_of
from tests.made_up_runs import make_record, pool_ref

ROOT = Path(__file__).parents[1]
PUBLISHED = sorted(ROOT.glob("results/published/paper/runs/*/record.json"))[::9]


assert Sweep, "registers what conf/config.yaml needs"


def test_command_is_the_one_that_was_typed():
    record = make_record(origin={"command": "python run.py method=ties 'method.weights=[1,2]'"})
    assert command_of(record) == "python run.py method=ties 'method.weights=[1,2]'"


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_command_of_an_old_record_composes_to_its_settings(path):
    record = read_record(path)
    program, script, *overrides = shlex.split(command_of(record))
    assert (program, script) == ("python", "run.py")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=overrides, return_hydra_config=True)
    chosen = config.hydra.runtime.choices
    assert (chosen["models"], chosen["suite"]) == (record.models.pool, record.suite.name)
    assert (config.seed, config.dtype) == (record.seed, record.dtype)
    if record.kind == "merge":
        method = bind_method(OmegaConf.to_container(config.method, resolve=True))
        assert chosen["method"] == record.name
        assert record.settings.items() <= method_settings(method).items()


def test_overrides_by_tensor_are_written_as_a_list():
    record = make_record(settings={"lam": 1.0, "overrides": '[{"match":"*.mlp.*","lam":0.3}]'})
    assert 'overrides=[{match:"*.mlp.*",lam:0.3}]' in shlex.split(command_of(record))


def test_pool_without_a_file_has_no_command():
    assert command_of(make_record(models=pool_ref("custom: base + a"))) is None


def test_origin_has_the_command_and_a_portable_folder(tmp_path):
    assert origin_of("", None, tmp_path) == {}
    origin = origin_of("python run.py", str(tmp_path / "kept"), tmp_path)
    assert origin == {"command": "python run.py", "merged_dir": "kept"}
    record = make_record(origin=origin)
    assert '"merged_dir": "kept"' in record_json(record)
    assert "origin" not in record_json(make_record())
    with pytest.raises(ValueError, match=r"origin\.command must be a text or null, got 3"):
        replace(record, origin={"command": 3})
