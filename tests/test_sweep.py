"""Start and end of a sweep: folders, cells that are counted, cells that left nothing."""

import json
import os

import pytest
from omegaconf import OmegaConf

from eval import sweep as module
from eval.folders import run_lock
from eval.owner import Owner
from eval.sweep import Sweep, end_early, overrides_of, seconds_left

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


def test_a_cell_that_still_runs_is_said_to(config, monkeypatch, tmp_path):
    about = {"sweep": "sweep", "index": 1}
    with run_lock(tmp_path / "out", "ties-1", about=about):
        errors = [cell["error"] for cell in cells_at_the_end(config, monkeypatch)]
    assert errors[::2] == [None, None]
    assert errors[1].startswith(f"it still runs, by {Owner.here()}: run the same command")


def test_an_entry_given_on_the_command_line_is_varied_no_more(config, tmp_path):
    config.hydra.overrides.task = ["tau=0.5", "method=ties,dare"]
    Sweep().on_multirun_start(config)
    plan = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert plan["cells"] == [["tau=0.5", "method=ties"], ["tau=0.5", "method=dare"]]
    assert plan["keys"] == ["method"]
    assert json.loads(os.environ["SEME_SWEEP"])["n_cells"] == 2


def test_a_launcher_that_fails_leaves_the_count_and_exit_code_1(config, monkeypatch, capsys):
    config.hydra.launcher = {"_target_": "x.JoblibLauncher", "n_jobs": 1}
    concluded = []
    monkeypatch.setattr(module, "conclude", lambda *_: concluded.extend(_[2]))
    Sweep().on_multirun_start(config)
    with pytest.raises(SystemExit) as end:
        end_early(RuntimeError("a worker\nwas killed"))
    assert end.value.code == 1
    assert len(concluded) == 3
    assert "ended early: RuntimeError: a worker was killed\n" in capsys.readouterr().err
    end_early(RuntimeError("another's"))  # no sweep runs now


def test_workers_of_this_machine_take_a_gpu_before_their_cell(config, monkeypatch, tmp_path):
    taken = []
    monkeypatch.setattr(module, "take_gpu", lambda root, **_: taken.append(root))
    for launcher, device in (
        ("JoblibLauncher", "auto"), ("JoblibLauncher", "cpu"), ("SlurmLauncher", "auto")
    ):  # fmt: skip
        config.hydra.launcher, config.device = {"_target_": f"x.{launcher}"}, device
        Sweep().on_job_start(config)
    assert taken == [tmp_path / "out"]


def test_a_launcher_that_is_missing_stops_the_sweep_in_one_line(config, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("hydra/launcher=ray is not installed")

    monkeypatch.setattr(module, "check_launcher", refuse)
    with pytest.raises(SystemExit) as end:
        Sweep().on_multirun_start(config)
    assert end.value.code == "error: hydra/launcher=ray is not installed"


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
