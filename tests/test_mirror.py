"""Which records are mirrored: markers, restarts, half-written runs; wandb itself is replaced."""

import json
from dataclasses import replace

import pytest

from eval.folders import run_lock
from eval.records import write_record
from eval.tracking import mirror as module
from eval.tracking.mirror import mirror, run_id_of, set_aside_broken
from tests.made_up_runs import make_record

RECORD = make_record("ties", {"a": 0.5}, fingerprint="0123456789abcdef", started_at="t")
RUN = "ties-0123456789ab"
WANDB = {"name": "wandb", "mode": "offline", "project": "p", "entity": None, "tags": []}


@pytest.fixture
def logged(monkeypatch):
    """Ids of the runs that were written; ``logged.warning`` is what log_run gives back."""

    class Logged(list):
        warning = None

    calls = Logged()

    def log_run(_content, *, root, run_id, **_):
        calls.append(run_id)
        (root / f"wandb/offline-run-1-{run_id}").mkdir(parents=True)
        return calls.warning

    monkeypatch.setattr(module, "log_run", log_run)
    return calls


def track(root, record=RECORD, tracker=WANDB):
    return mirror(record, write_record(root, record, None).parent, tracker=tracker, group="g")


def runs_in(root):
    return sorted(path.name for path in root.glob("wandb/*") if path.name != "broken")


def test_a_record_is_mirrored_once(tmp_path, logged):
    assert track(tmp_path) is None
    assert track(tmp_path) is None
    assert logged == [run_id_of(RECORD)]
    marker = json.loads((tmp_path / "runs" / RUN / "wandb.json").read_text())
    assert marker == {"run": run_id_of(RECORD), "complete": True}


def test_a_repeated_run_is_another_run(tmp_path, logged):
    track(tmp_path)
    track(tmp_path, replace(RECORD, started_at="later"))
    assert len(set(logged)) == 2


def test_without_a_tracker_nothing_is_written(tmp_path, logged):
    assert track(tmp_path, tracker={"name": "none"}) is None
    assert logged == []
    assert not list(tmp_path.rglob("wandb*"))


def test_what_failed_is_mirrored_by_a_restart_and_the_broken_run_set_aside(tmp_path, logged):
    logged.warning = "not logged to W&B: no route"
    assert track(tmp_path) == logged.warning
    logged.warning = None
    assert track(tmp_path) is None
    assert logged == [run_id_of(RECORD)] * 2
    name = f"offline-run-1-{run_id_of(RECORD)}"
    assert runs_in(tmp_path) == [name]
    assert [p.name for p in tmp_path.glob("wandb/broken/*")] == [name]


def test_half_written_runs_are_set_aside_unless_their_process_lives(tmp_path, logged):
    logged.warning = "killed"
    track(tmp_path)
    with run_lock(tmp_path, RUN):
        assert set_aside_broken(tmp_path) == 0
    assert set_aside_broken(tmp_path) == 1
    assert runs_in(tmp_path) == []


def test_a_complete_run_is_not_set_aside(tmp_path, logged):
    track(tmp_path)
    assert set_aside_broken(tmp_path) == 0
    assert len(runs_in(tmp_path)) == len(logged) == 1


def test_a_marker_that_cannot_be_written_is_a_warning(tmp_path, logged, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "atomic_write", full)
    assert "No space left on device" in track(tmp_path)
    assert logged == []
