"""Real wandb, offline; the file it leaves is read back."""

import json
import struct
import time
from pathlib import Path

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from eval import tracking
from eval.results import Record, Score, StageCost
from eval.tracking import track

WANDB = {
    "name": "wandb",
    "mode": "offline",
    "project": "seme-bench",
    "entity": None,
    "tags": ["x"],
}
COST = StageCost(
    seconds=0.25, peak_rss_bytes=900, base_rss_bytes=100, peak_anon_bytes=500,
    peak_gpu_bytes=None, source="VmHWM",
)  # fmt: skip


def score(value):
    return Score(
        value=value, stderr=0.1, n=9, raw=value, raw_metric="acc", higher_is_better=True
    )


def make_record(name="ties", value=0.5):
    return Record(
        fingerprint=f"{name}56789abcdef", kind="merge", status="done", name=name,
        settings={"density": 0.1}, models={"pool": "zoo", "pivot": {}, "sources": []},
        suite={"name": "zoo", "split": "test", "fingerprint": "s", "held_out": []}, seed=3,
        dtype="bfloat16", scores={"code": score(value), "french": score(0.25)},
        domains={"code": "code", "french": "french"}, merge_cost=COST, evaluation_cost=None,
        merge={}, error=None, provenance={}, started_at="2025-01-01T00:00:00+00:00",
        seconds_total=1.5,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("{}")
    return path


def blocks(path):
    """LevelDB's log format, 7 bytes into each file: blocks of 32 KiB of checksummed chunks."""
    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # a block's padding
            place += 32768 - place % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        if place + 7 + size > len(data):  # not written to its end yet
            return
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def read_run(path):
    """Records of one offline run; wandb writes the last of them a moment after finish()."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        records = [wandb_internal_pb2.Record.FromString(block) for block in blocks(path)]
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{path} never got its last record")


def read_back(folder):
    """Everything the offline runs under a folder left: one list of records a run."""
    return [read_run(path) for path in sorted(Path(folder).rglob("*.wandb"))]


def run_and_summary(records):
    run = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    summary = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.update:
                key = item.key or "/".join(item.nested_key)
                summary[key] = json.loads(item.value_json)
    return run, summary


def test_config_scores_cost_and_group_are_in_the_offline_file(path, tmp_path):
    folder = tmp_path / "run"
    assert track(make_record(), path, tracker=WANDB, group="sweep-7", folder=folder) is None
    (records,) = read_back(folder)
    run, summary = run_and_summary(records)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.run_group, run.project) == ("sweep-7", "seme-bench")
    assert set(run.tags) == {"x", "ties", "zoo", "done"}
    assert (config["method"], config["settings"], config["seed"]) == (
        "ties",
        {"density": 0.1},
        3,
    )
    assert (summary["score/code"], summary["score/mean"]) == (0.5, 0.375)
    assert (summary["merge/seconds"], summary["merge/peak_rss_bytes"]) == (0.25, 900)


def test_the_table_and_the_record_go_along(path, tmp_path):
    track(make_record(), path, tracker=WANDB, group="g", folder=tmp_path / "run")
    (table_path,) = (tmp_path / "run").rglob("*.table.json")
    table = json.loads(table_path.read_text())
    assert table["data"][0] == ["code", "code", 0.5, 0.1, 9, "acc", 0.5]
    (records,) = read_back(tmp_path / "run")
    artifacts = [r.request.log_artifact.artifact for r in records] + [
        r.artifact for r in records
    ]
    assert "record" in {artifact.type for artifact in artifacts}


def test_a_second_run_in_the_same_process_is_a_run_of_its_own(path, tmp_path):
    for name, value in (("ties", 0.5), ("dare", 0.75)):
        record = make_record(name, value)
        assert track(record, path, tracker=WANDB, group="g", folder=tmp_path / "run") is None
    found = [run_and_summary(records) for records in read_back(tmp_path / "run")]
    scores = {run.display_name[:4]: summary["score/code"] for run, summary in found}
    assert scores == {"ties": 0.5, "dare": 0.75}
    assert len({run.run_id for run, _ in found}) == 2


def test_a_run_that_somebody_left_open_is_not_written_into(path, tmp_path):
    left_open = wandb.init(mode="offline", project="other", dir=tmp_path)
    assert track(make_record(), path, tracker=WANDB, group="g", folder=tmp_path / "run") is None
    runs = [run_and_summary(records)[0] for records in read_back(tmp_path)]
    assert {run.project for run in runs} == {"other", "seme-bench"}
    assert left_open.id in {run.run_id for run in runs}


def test_nothing_is_written_outside_the_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    track(make_record(), path, tracker=WANDB, group="g", folder=tmp_path / "run")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["record.json", "run"]


def test_a_failing_wandb_leaves_a_warning_and_no_exception(path, tmp_path, monkeypatch):
    def fail(**_options):
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", fail)
    warning = track(make_record(), path, tracker=WANDB, group="g", folder=tmp_path / "run")
    assert "CommError: no route to host" in warning
    assert f"the record is safe in {path}" in warning


def test_a_record_that_cannot_be_attached_still_ends_the_run(path, tmp_path):
    path.unlink()
    warning = track(make_record(), path, tracker=WANDB, group="g", folder=tmp_path / "run")
    assert warning.startswith("not tracked in W&B: ")
    assert wandb.run is None


def test_a_swallowed_failure_is_noticed_by_the_missing_file(path, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_WRITING_SECONDS", 0.1)
    real = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **o: real(**{**o, "mode": "disabled"}))
    warning = track(make_record(), path, tracker=WANDB, group="g", folder=tmp_path / "run")
    assert "the offline run should be in" in warning


def test_tags_are_cut_to_what_wandb_accepts(path, tmp_path):
    tracker = WANDB | {"tags": ["y" * 80]}
    assert track(make_record(), path, tracker=tracker, group="g", folder=tmp_path / "r") is None
    run, _ = run_and_summary(read_back(tmp_path / "r")[0])
    assert "y" * 64 in run.tags


def test_no_tracker_writes_nothing(path, tmp_path):
    assert (
        track(make_record(), path, tracker={"name": "none"}, group="g", folder=tmp_path) is None
    )
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "of"}, "tracker.mode must be one of .*, got 'of'"),
        ({"nmae": "x"}, "a tracker is"),
        ({"name": "mlflow"}, "a tracker is"),
    ],
)
def test_a_wrong_tracker_is_an_error_not_a_warning(path, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        track(make_record(), path, tracker=WANDB | change, group="g", folder=tmp_path)
