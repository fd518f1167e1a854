"""What has become of the cells of a sweep: ended, under way, lost."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from eval.folders import run_lock
from eval.owner import Owner
from eval.run_lock import DEAD_AFTER
from eval.sweep_state import claims_of, sweep_state, write_plan

CELLS = [["method=ties", f"tau={tau}", "output=out"] for tau in ("0.1", "0.2", "0.3", "0.4")]


@pytest.fixture
def sweep(tmp_path):
    """A sweep of four cells that this process launched, named ``s``."""
    lock = write_plan(tmp_path / "sweeps/s", CELLS, keys=["tau"], launcher="joblib")
    yield tmp_path / "sweeps/s"
    lock.release()


def end(folder, error=None, refused=False):
    """Leave what a cell leaves at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    cell = {"cell": "tau=0.1", "fingerprint": "f", "error": error, "refused": refused}
    (folder / "cell.json").write_text(json.dumps(cell))


def states(root):
    state = sweep_state(root / "sweeps/s", claims_of(root))
    return [cell.state for cell in state.cells]


def test_cells_wait_start_run_and_end(sweep, tmp_path):
    assert states(tmp_path) == ["waiting"] * 4
    end(sweep / "0")
    end(sweep / "1", "no space left")
    (sweep / "2").mkdir()
    assert states(tmp_path) == ["done", "failed", "starting", "waiting"]
    with run_lock(tmp_path, "ties-1", about={"sweep": "s", "index": 2}) as lock:
        lock.note("merging 2 sources")
        (cell,) = [c for c in sweep_state(sweep, claims_of(tmp_path)).cells if c.claim]
        assert (cell.number, cell.title, cell.state) == (3, "method=ties tau=0.3", "running")
        assert (cell.claim.owner.pid, cell.claim.stage) == (os.getpid(), "merging 2 sources")
    end(sweep / "2", "of another shape", refused=True)
    assert states(tmp_path)[2] == "not applicable"


def test_cells_of_a_launcher_that_ended_are_lost_but_those_that_run_go_on(tmp_path):
    lock = write_plan(tmp_path / "sweeps/s", CELLS, keys=["tau"], launcher="submitit_slurm")
    for index in (0, 1):
        (tmp_path / f"sweeps/s/{index}").mkdir()
    with run_lock(tmp_path, "ties-1", about={"sweep": "s", "index": 1}):
        lock.release()
        assert states(tmp_path) == ["died", "running", "not started", "not started"]
    state = sweep_state(tmp_path / "sweeps/s", claims_of(tmp_path))
    assert (state.launcher, state.launched_by, state.count("died")) == (
        "submitit_slurm",
        None,
        2,
    )


def test_a_cell_whose_worker_was_killed_died_with_its_owner(sweep, tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from eval.folders import run_lock\n"
        "run_lock(Path(sys.argv[1]), 'ties-1', about={'sweep': 's', 'index': 3}).acquire()\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    cell = sweep_state(sweep, claims_of(tmp_path)).cells[3]
    assert (cell.state, cell.claim.owner.host) == ("died", Owner.here().host)


@pytest.mark.usefixtures("sweep")
def test_a_worker_of_another_host_runs_until_its_heartbeats_stop(tmp_path):
    owner = replace(Owner.here(), host="node-2").to_json()
    claim = tmp_path / ".locks/ties-1/4.lock"
    claim.parent.mkdir(parents=True)
    about = {"sweep": "s", "index": 0}
    claim.write_text(json.dumps({"owner": owner, "since": "x", "about": about}))
    assert states(tmp_path)[0] == "running"
    then = time.time() - DEAD_AFTER - 1
    os.utime(claim, (then, then))
    assert states(tmp_path)[0] == "died"


def test_a_single_run_is_a_sweep_of_one(tmp_path):
    end(tmp_path / "sweeps/s")
    assert states(tmp_path) == ["done"]
    (tmp_path / "sweeps/s/cell.json").unlink()
    with run_lock(tmp_path, "ties-1", about={"sweep": "s", "index": None, "label": "ties"}):
        (cell,) = sweep_state(tmp_path / "sweeps/s", claims_of(tmp_path)).cells
    assert (cell.title, cell.state) == ("ties", "running")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"cells": 5}', '{"cells": [["a", 5]], "keys": []}', "[" * 99999]
)
def test_a_sweep_without_a_readable_plan_shows_the_cells_that_began(tmp_path, text):
    for index in (0, 10):
        end(tmp_path / f"sweeps/s/{index}")
    (tmp_path / "sweeps/s/sweep.json").write_text(text)
    state = sweep_state(tmp_path / "sweeps/s", claims_of(tmp_path))
    assert [(cell.number, cell.title) for cell in state.cells] == [
        (1, "tau=0.1"),
        (11, "tau=0.1"),
    ]


@pytest.mark.usefixtures("sweep")
def test_locks_that_are_of_no_cell_are_passed_over(tmp_path):
    (tmp_path / ".locks/old.lock").parent.mkdir(exist_ok=True)
    (tmp_path / ".locks/old.lock").touch()  # as earlier versions left
    for about in ({}, {"sweep": 5, "index": 1}, {"sweep": "s", "index": "1"}):
        with run_lock(tmp_path, "x", about=about):
            assert claims_of(tmp_path) == {}
