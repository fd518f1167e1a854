"""Which records are mirrored where: markers, restarts, half-written runs; clients are replaced."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from eval.folders import run_lock
from eval.records import write_record
from eval.tracking import mirror as module
from eval.tracking import wandb_run
from eval.tracking.mirror import mirror, run_id_of, set_aside_broken
from eval.tracking.trackers import TRACKERS
from tests.made_up_runs import make_record

RECORD = make_record("ties", {"a": 0.5}, fingerprint="0123456789abcdef", started_at="t")
RUN = "ties-0123456789ab"
ENTRIES = {"wandb": {}, "mlflow": {"uri": None}, "tensorboard": {}}
WANDB = {"wandb": {}}


class Fake(list):
    """A tracker that keeps the ids of the runs it wrote; ``error`` is what writing one raises."""

    error = None

    def install(self, name, monkeypatch):
        tracker = SimpleNamespace(
            TITLE=name, write_run=self.write_run, set_aside=self.set_aside
        )
        monkeypatch.setitem(TRACKERS, name, tracker)
        self.name = name

    def write_run(self, _content, *, root, run_id, **_):
        self.set_aside(root, run_id)
        self.append(run_id)
        self.folder(root, run_id).mkdir(parents=True)
        if self.error is not None:
            raise self.error

    def folder(self, root, run_id):
        return root / self.name / f"offline-run-1-{run_id}"

    def set_aside(self, root, run_id):
        if self.name == "wandb":
            return wandb_run.set_aside(root, run_id)
        if (there := self.folder(root, run_id).exists()) is True:
            self.folder(root, run_id).rmdir()
        return int(there)


@pytest.fixture
def trackers(monkeypatch):
    """The three trackers, each a fake."""
    fakes = {name: Fake() for name in TRACKERS}
    for name, fake in fakes.items():
        fake.install(name, monkeypatch)
    return fakes


def track(root, record=RECORD, tracker=WANDB):
    return mirror(record, write_record(root, record, None).parent, tracker=tracker, group="g")


def runs_in(root):
    return sorted(path.name for path in root.glob("wandb/*") if path.name != "broken")


def marker(root, name="wandb"):
    return json.loads((root / "runs" / RUN / f"{name}.json").read_text())


def test_a_record_is_mirrored_once_by_each_tracker(tmp_path, trackers):
    for _ in range(2):
        assert track(tmp_path, tracker=ENTRIES) is None
    for name, fake in trackers.items():
        assert fake == [run_id_of(RECORD)]
        assert marker(tmp_path, name) == {"run": run_id_of(RECORD), "complete": True}


def test_a_tracker_that_is_added_later_gets_the_record(tmp_path, trackers):
    track(tmp_path)
    track(tmp_path, tracker=ENTRIES)
    assert {name: len(fake) for name, fake in trackers.items()} == dict.fromkeys(ENTRIES, 1)


def test_a_server_gets_what_the_results_folder_has(tmp_path, trackers):
    for uri in (None, "http://host", "http://host"):
        track(tmp_path, tracker={"mlflow": {"uri": uri}})
    assert len(trackers["mlflow"]) == 2
    assert marker(tmp_path, "mlflow")["uri"] == "http://host"


def test_a_repeated_run_is_another_run(tmp_path, trackers):
    track(tmp_path)
    track(tmp_path, replace(RECORD, started_at="later"))
    assert len(set(trackers["wandb"])) == 2


def test_without_a_tracker_nothing_is_written(tmp_path, trackers):
    assert track(tmp_path, tracker={"none": {}}) is None
    assert set(map(len, trackers.values())) == {0}
    assert [path.name for path in (tmp_path / "runs" / RUN).iterdir()] == ["record.json"]


def test_what_failed_is_mirrored_by_a_restart_and_the_broken_run_set_aside(tmp_path, trackers):
    trackers["wandb"].error = ConnectionError("no route")
    warning = track(tmp_path, tracker=ENTRIES)
    assert warning.startswith("not logged to wandb: ConnectionError: no route")
    assert {name: marker(tmp_path, name)["complete"] for name in ENTRIES} == {
        "wandb": False, "mlflow": True, "tensorboard": True,
    }  # fmt: skip
    trackers["wandb"].error = None
    assert track(tmp_path, tracker=ENTRIES) is None
    assert {name: len(fake) for name, fake in trackers.items()} == {
        "wandb": 2, "mlflow": 1, "tensorboard": 1,
    }  # fmt: skip
    name = f"offline-run-1-{run_id_of(RECORD)}"
    assert runs_in(tmp_path) == [name]
    assert [p.name for p in tmp_path.glob("wandb/broken/*")] == [name]


def test_failures_of_two_trackers_are_both_said(tmp_path, trackers):
    for name in ("mlflow", "tensorboard"):
        trackers[name].error = OSError(28, "No space left on device")
    first, second = track(tmp_path, tracker=ENTRIES).splitlines()
    assert first.startswith("not logged to mlflow: OSError: [Errno 28] No space left")
    assert second.startswith("not logged to tensorboard: OSError: [Errno 28] No space left")


def test_half_written_runs_are_set_aside_unless_their_process_lives(tmp_path, trackers):
    for fake in trackers.values():
        fake.error = OSError("killed")
    track(tmp_path, tracker=ENTRIES)
    with run_lock(tmp_path, RUN):
        assert set_aside_broken(tmp_path) == 0
    assert set_aside_broken(tmp_path) == 3
    assert not list(tmp_path.glob("*/offline-run-*"))


def test_a_client_that_cannot_set_aside_stops_no_run(tmp_path, trackers, monkeypatch):
    trackers["mlflow"].error = OSError("killed")
    track(tmp_path, tracker=ENTRIES)

    def fail(*_arguments):
        raise ModuleNotFoundError("No module named 'mlflow'")

    monkeypatch.setattr(TRACKERS["mlflow"], "set_aside", fail)
    assert set_aside_broken(tmp_path) == 0


def test_a_complete_run_is_not_set_aside(tmp_path, trackers):
    track(tmp_path)
    assert set_aside_broken(tmp_path) == 0
    assert len(runs_in(tmp_path)) == len(trackers["wandb"]) == 1


def test_a_marker_that_cannot_be_written_is_a_warning(tmp_path, trackers, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "atomic_write", full)
    assert "No space left on device" in track(tmp_path)
    assert trackers["wandb"] == []
