"""Real wandb, offline; the file it leaves is read back."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from eval.tracking import offline_run, wandb_run
from eval.tracking.offline_run import records_in
from eval.tracking.wandb_run import track
from tests.offline_runs import (
    WANDB,
    artifacts_of,
    make_record,
    make_reference,
    model,
    read_back,
    read_run,
    run_and_summary,
    used_and_made,
    write,
)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "results"


def log(root, record, **changes):
    """Write a record, track it, and return the warning."""
    path = write(root, record)
    tracker = WANDB | changes
    return track(record, path, tracker=tracker, group="sweep-7", folder=path.parent / "wandb")


def test_config_scores_cost_and_group_are_in_the_offline_file(root):
    assert log(root, make_record()) is None
    run, summary = run_and_summary(read_back(root)[0])
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.run_group, run.project, run.job_type) == ("sweep-7", "seme-bench", "evaluation")
    assert set(run.tags) == {"x", "ties", "zoo", "done"}
    assert (config["method"], config["seed"]) == ("ties", 3)
    assert (summary["score/code"], summary["score/mean"]) == (0.5, 0.375)
    assert (summary["merge/seconds"], summary["merge/peak_rss_bytes"]) == (0.25, 900)


def test_the_lineage_leads_from_the_models_through_the_merge_to_the_score(root):
    log(root, make_record())
    evaluation, merge = read_back(root)
    models = [f"model-hash-of-{name}" for name in ("base", "code", "french")]
    assert used_and_made(merge) == (models, ["merge-ties-ties56789abc"])
    assert used_and_made(evaluation) == (
        ["merge-ties-ties56789abc"], ["score-ties-ties56789abc"],
    )  # fmt: skip
    digests = {a.name: {b.digest for b in artifacts_of(evaluation + merge) if b.name == a.name}
               for a in artifacts_of(merge)}  # fmt: skip
    assert len(digests["merge-ties-ties56789abc"]) == 1  # the merge used is the merge made


def test_the_run_of_the_merge_has_its_cost_and_no_scores(root):
    log(root, make_record())
    run, summary = run_and_summary(read_back(root)[1])
    assert (run.job_type, summary["merge/seconds"]) == ("merge", 0.25)
    assert "score/mean" not in summary


def test_an_unmerged_model_is_one_run(root):
    assert log(root, make_reference("base")) is None
    (records,) = read_back(root)
    assert used_and_made(records) == (["model-hash-of-base"], ["score-base-base56789abc"])


def test_the_files_wait_in_the_results_folder_under_paths_from_there(root):
    log(root, make_record())
    files = {}
    for records in read_back(root):
        for artifact in artifacts_of(records):
            files |= {
                entry.path: root / entry.local_path for entry in artifact.manifest.contents
            }
    assert all(path.is_relative_to(root) and path.is_file() for path in files.values())
    record = root / "runs" / "ties-ties56789abc" / "record.json"
    assert files["record.json"].read_bytes() == record.read_bytes()
    assert files["weights.hash"].read_text().startswith("hash-of-")


def test_neither_host_nor_account_nor_paths_of_the_machine_are_in_the_file(root):
    models = replace(make_record().models, pivot=model("base", "/home/alice"))
    log(root, make_record(models=models))
    for records in read_back(root):
        kinds = [record.WhichOneof("record_type") for record in records]
        text = "\n".join(map(str, records))
        assert "environment" not in kinds
        assert run_and_summary(records)[0].host == "undisclosed"
        assert "alice" not in text
        assert str(root) not in text


def test_the_table_of_tasks_is_shown_from_an_artifact(root):
    log(root, make_record())
    records = read_back(root)[0]
    (tables,) = (a for a in artifacts_of(records) if a.type == "tables")
    (entry,) = tables.manifest.contents
    table = json.loads((root / entry.local_path).read_text())
    assert table["data"][0] == ["code", "code", 0.5, 0.1, 2, "acc", 0.5]
    shown = run_and_summary(records)[1]
    assert shown["tasks/artifact_path"] == (
        f"wandb-client-artifact://{tables.client_id}/tasks.table.json"
    )
    assert list(root.rglob("media/table/tasks_*.table.json"))


def test_a_second_record_in_the_same_process_has_runs_of_its_own(root, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "somebody-elses")
    for name, value in (("ties", 0.5), ("dare", 0.75)):
        assert log(root, make_record(name, value)) is None
    found = [run_and_summary(records) for records in read_back(root)]
    scores = {r.display_name[:4]: s["score/code"] for r, s in found if "score/code" in s}
    assert scores == {"ties": 0.5, "dare": 0.75}
    assert len({run.run_id for run, _ in found}) == 4


def test_a_run_that_somebody_left_open_is_not_written_into(root, tmp_path):
    left_open = wandb.init(mode="offline", project="other", dir=tmp_path)
    assert log(root, make_record()) is None
    runs = [run_and_summary(records)[0] for records in read_back(tmp_path)]
    assert {run.project for run in runs} == {"other", "seme-bench"}
    assert left_open.id in {run.run_id for run in runs}


def test_nothing_is_written_outside_the_folder(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log(root, make_record())
    assert [p.name for p in tmp_path.iterdir()] == ["results"]
    assert [p.name for p in root.iterdir()] == ["runs"]


def test_no_temporary_folder_is_left_to_the_collector(root, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    log(root, make_record())
    assert list(temporary.iterdir()) == []


def test_a_failing_wandb_leaves_a_warning_that_says_what_to_do(root, monkeypatch):
    def fail(**_options):
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", fail)
    warning = log(root, make_record())
    assert "CommError: no route to host" in warning
    assert "`python -m scripts.track` logs all scores again" in warning
    assert "the record is safe in " in warning


def test_a_record_that_cannot_be_read_is_a_warning(root):
    path = write(root, make_record())
    path.unlink()
    warning = track(make_record(), path, tracker=WANDB, group="g", folder=root / "wandb")
    assert warning.startswith("not tracked in W&B: FileNotFoundError")


def test_a_failure_on_the_way_ends_the_run_as_failed(root, monkeypatch):
    monkeypatch.setattr(wandb_run, "_log_lineage", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in log(root, make_record())
    assert wandb.run is None
    (records,) = read_back(root)
    assert [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"] == [1]


def test_a_file_is_whole_when_the_end_of_the_run_is_in_it_and_not_before(root, monkeypatch):
    waited = []
    monkeypatch.setattr(wandb_run, "check_written", lambda *asked: waited.append(asked))
    assert log(root, make_record()) is None
    assert len(waited) == 2
    for path, is_last in waited:
        read_run(path)  # to its end
        found = list(records_in(path))
        kinds = [
            wandb_internal_pb2.Record.FromString(r).WhichOneof("record_type") for r in found
        ]
        assert [is_last(record) for record in found] == [kind == "exit" for kind in kinds]
        assert {"run", "exit"} < set(kinds)


def test_a_swallowed_failure_is_noticed_by_the_missing_file(root, monkeypatch):
    real = wandb.init

    def init(**options):
        run = real(**options)
        finish = run.finish
        written = Path(run.settings.sync_file)

        def lost(exit_code):
            finish(exit_code)
            read_run(written)  # when it is whole nothing writes it again
            written.unlink()

        run.finish = lost
        return run

    monkeypatch.setattr(offline_run, "_WRITING_SECONDS", 0.1)
    monkeypatch.setattr(wandb, "init", init)
    assert "the offline run should be in" in log(root, make_record())


def test_online_uploads_the_merge_then_the_score(root, monkeypatch):
    uploaded = []
    monkeypatch.setattr(wandb_run, "upload", lambda path, start: uploaded.append((path, start)))
    assert log(root, make_record(), mode="online") is None
    assert [path.parents[2].name for path, _ in uploaded] == ["merge", "evaluation"]
    assert {start for _, start in uploaded} == {root}


def test_a_failed_upload_leaves_the_run_and_the_commands_to_try_again(root, monkeypatch):
    def refuse(*_):
        raise ConnectionError("refused")

    monkeypatch.setattr(wandb_run, "upload", refuse)
    warning = log(root, make_record(), mode="online")
    assert f"`cd {root} && WANDB_PROGRAM=seme-bench wandb sync runs/*/wandb/merge" in warning
    assert len(read_back(root)) == 2  # all are written before the first is uploaded


def test_no_tracker_writes_nothing(root):
    path = write(root, make_record())
    before = sorted(root.rglob("*"))
    assert track(make_record(), path, tracker={"name": "none"}, group="g", folder=root) is None
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "of"}, "tracker.mode must be one of .*, got 'of'"),
        ({"nmae": "x"}, "a tracker is"),
        ({"name": "mlflow"}, "a tracker is"),
    ],
)
def test_a_wrong_tracker_is_an_error_not_a_warning(root, change, message):
    with pytest.raises(ValueError, match=message):
        log(root, make_record(), **change)
