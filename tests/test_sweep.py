"""Start and end of a sweep: folders, cells that are counted, cells that left nothing."""

import json

import pytest
from omegaconf import OmegaConf

from eval import sweep as module
from eval.sweep import Sweep, overrides_of, seconds_left

CELL = {"cell": "tau=0.1", "fingerprint": "f", "error": None, "refused": False}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A sweep over three cells, two of which have ended."""
    monkeypatch.setenv("SEME_SWEEP", "")
    values = {
        "output": str(tmp_path / "out"), "plan": False,
        "hydra": {
            "sweep": {"dir": str(tmp_path / "sweep")},
            "sweeper": {"params": {"tau": "0.1,0.2,0.3"}, "_target_": "x.BasicSweeper"},
            "overrides": {"task": ["models.pivot=/data/${x}/base", "seed=0"]},
        },
    }  # fmt: skip
    for number in (0, 2):
        (tmp_path / f"sweep/{number}").mkdir(parents=True)
        (tmp_path / f"sweep/{number}/cell.json").write_text(json.dumps(CELL))
    return OmegaConf.create(values)


def cells_at_the_end(config, monkeypatch):
    concluded = []
    monkeypatch.setattr(
        module, "conclude", lambda _root, _output, cells: concluded.extend(cells)
    )
    Sweep().on_multirun_start(config)
    Sweep().on_multirun_end(config)
    return concluded


def test_a_cell_whose_process_died_is_counted_and_failed(config, monkeypatch):
    cells = cells_at_the_end(config, monkeypatch)
    assert [cell["error"] for cell in cells] == [
        None, "its process died: run the same command again", None,
    ]  # fmt: skip


def test_a_planned_cell_leaves_nothing_and_is_no_failure(config):
    config.plan = True
    Sweep().on_multirun_start(config)
    with pytest.raises(SystemExit) as end:
        Sweep().on_multirun_end(config)
    assert end.value.code == 0


def test_a_failure_at_the_end_is_an_exit_code(config, monkeypatch):
    def fail(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(module, "conclude", fail)
    Sweep().on_multirun_start(config)
    with pytest.raises(SystemExit) as end:
        Sweep().on_multirun_end(config)
    assert end.value.code == 1


def test_overrides_are_given_as_they_were_written(config):
    assert overrides_of(config.hydra) == ["models.pivot=/data/${x}/base", "seed=0"]


def test_folders_of_two_sweeps_differ_and_that_of_one_stays(tmp_path):
    text = f"{tmp_path}/${{token:}}"
    one, other = (OmegaConf.create({"run": text, "sweep": text}) for _ in range(2))
    assert one.run == one.sweep == one.run
    assert one.run != other.run


@pytest.mark.parametrize("output", ["", "/proc/x", 5])
def test_an_output_that_cannot_be_written_stops_before_anything_is_made(config, output):
    config.output = output
    with pytest.raises(SystemExit, match=r"^error: output"):
        Sweep().on_run_start(config)


def test_the_other_cells_are_expected_to_take_as_long_as_those_that_ran(config):
    config.hydra.launcher = {"_target_": "x.BasicLauncher"}
    Sweep().on_multirun_start(config)
    assert [seconds_left(0, 4.0), seconds_left(1, 8.0), seconds_left(2, 0.0)] == [8.0, 6.0, 0.0]
    Sweep().on_multirun_start(config)  # another sweep in this process
    assert seconds_left(0, 1.0) == 2.0
    config.hydra.launcher = {"_target_": "x.JoblibLauncher", "n_jobs": 1}
    Sweep().on_multirun_start(config)
    assert seconds_left(0, 4.0) is None
