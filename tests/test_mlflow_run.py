"""MLflow runs of the real client, read back with MLflow's own reader."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.metric_kinds import TaskMetric
from eval.tracking.mlflow_run import RUN_TAG, check_entries, hint, set_aside
from tests.tracked import log, make_record, reader_of_mlflow, runs_of_mlflow

ENTRIES = {"uri": None, "experiment": "seme-bench", "tags": ["x"]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A results folder, its path with a space, with one run of MLflow."""
    root = tmp_path_factory.mktemp("mlflow") / "my results"
    before = dict(os.environ)
    assert log("mlflow", root, make_record(), ENTRIES) is None
    assert dict(os.environ) == before
    return root


@pytest.fixture
def run(root):
    return next(r for r in runs_of_mlflow(root) if r.info.run_name == "ties-ties56789abc")


def artifact(root, run, name):
    return Path(reader_of_mlflow(root).download_artifacts(run.info.run_id, name)).read_bytes()


def test_scores_runtime_and_memory_are_metrics(run):
    metrics = run.data.metrics
    assert (metrics["score/code"], metrics["score/mean"]) == (0.5, 0.375)
    assert (metrics["merge/seconds"], metrics["merge/peak_rss_bytes"]) == (0.25, 900.0)
    assert run.info.status == "FINISHED"


def test_config_is_parameters_and_a_file(root, run):
    params = run.data.params
    assert (params["method"], params["settings.density"], params["seed"]) == (
        "ties", "0.1", "3",
    )  # fmt: skip
    assert [source["name"] for source in json.loads(params["models.sources"])] == [
        "code", "french",
    ]  # fmt: skip
    config = json.loads(artifact(root, run, "config.json"))
    assert config["models"]["pivot"]["content_hash"] == "hash-of-base"


def test_tags_hold_group_kind_and_texts(run):
    tags = run.data.tags
    assert (tags["seme.group"], tags["seme.kind"], tags["status"]) == (
        "sweep-7",
        "merge",
        "done",
    )
    assert tags["seme.tags"] == "x, ties, zoo, done"
    assert tags["merge/source"] == "VmHWM"


def test_table_and_record_are_artifacts(root, run):
    table = json.loads(artifact(root, run, "scores.table.json"))
    assert table["columns"][:3] == ["task", "domain", "score"]
    assert table["data"] == [
        ["code", "code", 0.5, 0.1, 2, "acc", 0.5],
        ["french", "french", 0.25, 0.1, 2, "acc", 0.25],
    ]
    saved = root / "runs" / "ties-ties56789abc" / "record.json"
    assert artifact(root, run, "record.json") == saved.read_bytes()


def test_names_that_mlflow_refuses_are_written_otherwise_and_whole_in_the_summary(root):
    metric = TaskMetric(value=0.125, stderr=None, n=2, higher_is_better=True)
    log("mlflow", root, make_record("dare", metrics={"a//b": {"acc,none": metric}}), ENTRIES)
    run = next(r for r in runs_of_mlflow(root) if r.info.run_name.startswith("dare"))
    assert run.data.metrics["metric/a/b/acc_none"] == 0.125
    assert json.loads(artifact(root, run, "summary.json"))["metric/a//b/acc,none"] == 0.125


def test_a_run_logged_twice_is_there_once_and_can_be_set_aside(root):
    for _ in range(2):
        log("mlflow", root, make_record("twice"), ENTRIES)
    (run,) = (r for r in runs_of_mlflow(root) if r.info.run_name.startswith("twice"))
    assert set_aside(root, run.data.tags[RUN_TAG]) == 1
    assert set_aside(root, run.data.tags[RUN_TAG]) == 0
    assert run.info.run_id not in {r.info.run_id for r in runs_of_mlflow(root)}


def test_a_run_that_fails_half_way_is_marked(root, monkeypatch):
    from mlflow import MlflowClient  # noqa: PLC0415

    def fail(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MlflowClient, "log_table", fail)
    warning = log("mlflow", root, make_record("broken"), ENTRIES)
    assert warning.startswith("not logged to MLflow: OSError: [Errno 28] No space")
    (run,) = (r for r in runs_of_mlflow(root) if r.info.run_name.startswith("broken"))
    assert run.info.status == "FAILED"


def test_a_server_that_does_not_answer_is_a_warning(tmp_path):
    entries = ENTRIES | {"uri": "http://127.0.0.1:9"}
    warning = log("mlflow", tmp_path, make_record(), entries)
    assert warning.startswith("not logged to MLflow: MlflowException: ")
    assert not (tmp_path / "mlflow/mlflow.db").exists()


def test_nothing_is_written_outside_the_results_folder(tmp_path, repository):
    program = (
        "import sys; from pathlib import Path; "
        "from tests.test_mlflow_run import ENTRIES, log, make_record; "
        "sys.exit(log('mlflow', Path(sys.argv[1]), make_record(), ENTRIES))"
    )
    (tmp_path / "home").mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in ("CI", "PYTEST_CURRENT_TEST")}
    environment = kept | {
        "HOME": str(tmp_path / "home"), "PYTHONPATH": str(repository),
        "SEME_CACHE_DIR": str(tmp_path / "cache"),
    }  # fmt: skip
    command = [sys.executable, "-c", program, "results"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout + done.stderr == ""
    assert list((tmp_path / "home").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == [
        "home",
        "results",
    ]
    assert len(runs_of_mlflow(tmp_path / "results")) == 1


def test_the_hint_names_the_database(root, tmp_path):
    assert hint(tmp_path) is None
    assert hint(root).endswith(
        f"mlflow ui --backend-store-uri 'sqlite:///{root}/mlflow/mlflow.db'"
    )


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"uri": "results/mlruns"}, "results/mlruns"),
        ({"uri": "http://me:secret@host"}, "MLFLOW_TRACKING_PASSWORD"),
        ({"experiment": ""}, r"tracker\.mlflow\.experiment"),
        ({"tags": "x"}, r"tracker\.mlflow\.tags"),
        ({"url": "http://host"}, "url"),
    ],
)
def test_invalid_entries_are_refused(change, part):
    with pytest.raises(ValueError, match=part) as caught:
        check_entries(ENTRIES | change)
    assert "secret" not in str(caught.value)


def test_a_server_is_a_valid_entry():
    check_entries(ENTRIES | {"uri": "https://host:5000/mlflow"})
