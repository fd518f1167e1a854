"""Offline runs of the real wandb, their files read back."""

import json
import os
import socket
import subprocess
import sys
from uuid import uuid4

import pytest
import wandb

from eval.tracking.content import record_content
from eval.tracking.trackers import log_run
from eval.tracking.wandb_run import check_entries, hint
from tests.offline_runs import (
    WANDB,
    artifact_files,
    exit_code,
    make_record,
    read_back,
    run_and_summary,
    write,
)

pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "results"


def log(root, record, **changes):
    """Write a record, log it, and return the warning."""
    return log_content(root, record_content(record, write(root, record)), **changes)


def log_content(root, content, **changes):
    return log_run(
        "wandb",
        content,
        root=root,
        entries=WANDB | changes,
        group="sweep-7",
        run_id=uuid4().hex,
    )


def test_offline_file_has_config_scores_costs_and_group(root):
    assert log(root, make_record()) is None
    (records,) = read_back(root)
    run, summary = run_and_summary(records)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.run_group, run.project, run.job_type) == ("sweep-7", "seme-bench", "merge")
    assert set(run.tags) == {"x", "ties", "zoo", "done"}
    assert (config["method"], config["seed"]) == ("ties", 3)
    assert (summary["score/code"], summary["score/mean"]) == (0.5, 0.375)
    assert (summary["merge/seconds"], summary["merge/peak_rss_bytes"]) == (0.25, 900)
    assert exit_code(records) == 0


def test_score_table_and_record_are_logged(root):
    record = make_record()
    log(root, record)
    (records,) = read_back(root)
    (table,) = artifact_files(records, "run_table").values()
    assert json.loads(table)["data"][0] == ["code", "code", 0.5, 0.1, 2, "acc", 0.5]
    saved = root / "runs" / "ties-ties56789abc" / "record.json"
    assert artifact_files(records, "merge") == {"record.json": saved.read_bytes()}


def test_offline_file_has_no_host_or_environment(root):
    log(root, make_record())
    (records,) = read_back(root)
    assert "environment" not in [record.WhichOneof("record_type") for record in records]
    assert run_and_summary(records)[0].host == "undisclosed"


def test_tags_are_truncated_and_deduplicated(root):
    log(root, make_record(), tags=["y" * 80, "ties"])
    run, _ = run_and_summary(read_back(root)[0])
    assert sorted(run.tags) == ["done", "ties", "y" * 64, "zoo"]


def test_each_record_is_a_separate_run(root, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "somebody-elses")
    for name, value in (("ties", 0.5), ("dare", 0.75)):
        assert log(root, make_record(name, value)) is None
    runs = [run_and_summary(records) for records in read_back(root)]
    assert [(r.display_name[:4], s["score/code"]) for r, s in runs] == [
        ("dare", 0.75), ("ties", 0.5),
    ]  # fmt: skip
    assert len({run.run_id for run, _ in runs} | {"somebody-elses"}) == 3


def test_open_run_of_the_caller_is_untouched(root, tmp_path):
    wandb.init(mode="offline", project="other", dir=tmp_path)
    assert log(root, make_record()) is None
    for folder, project in ((root, "seme-bench"), (tmp_path, "other")):
        (records,) = read_back(folder)
        assert run_and_summary(records)[0].project == project


def test_nothing_is_written_outside_the_results_folder(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = dict(os.environ)
    log(root, make_record())
    assert [p.name for p in tmp_path.iterdir()] == ["results"]
    assert sorted(p.name for p in root.iterdir()) == ["runs", "wandb"]
    assert {name: value for name, value in os.environ.items() if "WANDB" in name} == {
        name: value for name, value in before.items() if "WANDB" in name
    }


def test_wandb_failure_is_a_warning(root, monkeypatch):
    def fail(**_options):
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", fail)
    warning = log(root, make_record())
    assert "CommError: no route to host" in warning
    assert str(root) in warning


def test_run_failing_while_logging_is_finished_as_failed(root):
    path = write(root, make_record())
    path.unlink()
    content = record_content(make_record(), path)
    assert "record.json" in log_content(root, content)
    assert wandb.run is None
    assert exit_code(read_back(root)[0]) == 1


def test_interrupt_finishes_the_run_and_propagates(root, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb.Artifact, "add_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        log(root, make_record())
    assert wandb.run is None


def test_no_connection_is_opened(root, repository):
    program = (
        "import sys; from pathlib import Path; "
        "from tests.test_wandb_run import log, make_record; "
        "sys.exit(log(Path(sys.argv[1]), make_record()))"
    )
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        environment = os.environ | {"HTTP_PROXY": address, "HTTPS_PROXY": address}
        command = [sys.executable, "-c", program, str(root)]
        subprocess.run(command, env=environment, cwd=repository, check=True)
        proxy.settimeout(0)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert len(read_back(root)) == 1


def test_upload_hint_syncs_offline_runs(root):
    assert hint(root) is None
    for name in ("ties", "dare"):
        log(root, make_record(name))
    read_back(root)  # both are whole
    command = hint(root).partition("upload with: ")[2]
    wandb_sync = f"{sys.executable} -m {command} --dry-run"
    synced = subprocess.run(wandb_sync, shell=True, capture_output=True, text=True, check=True)
    assert "Would sync 2 run(s)" in synced.stderr + synced.stdout
    for path in root.glob("wandb/offline-run-*/*.wandb"):
        assert path.name in synced.stderr + synced.stdout


def test_uploaded_runs_are_not_counted(root):
    for i in range(3):
        folder = root / "wandb" / f"offline-run-{i}"
        folder.mkdir(parents=True)
        (folder / f"run-{i}.wandb").touch()
    assert hint(root).startswith("W&B: 3 offline runs;")
    (root / "wandb" / "offline-run-0" / "run-0.wandb.synced").touch()
    assert hint(root).startswith("W&B: 2 offline runs;")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"mode": "of"}, "'of'"),
        ({"nmae": "x"}, "nmae"),
        ({"tags": "x"}, r"tracker\.wandb\.tags"),
    ],
)
def test_invalid_entries_are_refused(change, part):
    with pytest.raises(ValueError, match=part):
        check_entries(WANDB | change)


def test_both_modes_are_valid():
    check_entries(WANDB)
    check_entries(WANDB | {"mode": "online"})
