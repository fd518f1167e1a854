"""Folders of offline runs, and the upload of them, with a wandb that is played."""

import os
import struct
import subprocess

import pytest

from eval.tracking import offline_run
from eval.tracking.offline_run import (
    check_written,
    folders_under,
    records_in,
    upload,
    upload_commands,
)


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "results" / "wandb" / "wandb" / "offline-run-1" / "run-1.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"records")
    return path


def playing(monkeypatch, *, code=0, error="", marker=None):
    """Play ``wandb sync``; returns what it was called with."""
    called = {}

    def sync(command, **options):
        called.update(options, command=command)
        if marker is not None:
            marker.touch()
        return subprocess.CompletedProcess(command, code, "", error)

    monkeypatch.setattr(subprocess, "run", sync)
    return called


def test_the_folders_of_wandb_are_moved_for_the_block_only(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", "before")
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    with folders_under(tmp_path / "run"):
        assert os.environ["WANDB_DIR"] == str(tmp_path / "run")
        assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "run" / "data")
    assert os.environ["WANDB_DIR"] == "before"
    assert "WANDB_DATA_DIR" not in os.environ


def chunk(kind, data):
    return struct.pack("<IHB", 0, len(data), kind) + data


def is_end(record):
    return record == b"end"


WHOLE = b"header." + chunk(1, b"config") + chunk(1, b"end")


@pytest.mark.parametrize(
    "content", [None, b"", b"header.", WHOLE[:-1], WHOLE[: -len(b"end") - 7]]
)
def test_a_file_that_is_absent_or_not_whole_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setattr(offline_run, "_WRITING_SECONDS", 0.05)
    path = tmp_path / "run.wandb"
    if content is not None:
        path.write_bytes(content)
    message = r"run.wandb, it is absent or not written to its end"
    with pytest.raises(FileNotFoundError, match=message):
        check_written(path, is_end)


def test_a_file_that_is_written_a_little_later_is_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "run.wandb"
    path.write_bytes(WHOLE[:-1])
    monkeypatch.setattr(offline_run.time, "sleep", lambda _: path.write_bytes(WHOLE))
    check_written(path, is_end)


def test_records_cross_borders_of_the_file_in_chunks(tmp_path):
    # seven bytes of header, and five that are too few for a chunk before the border
    first = bytes(32768 - 7 - 7 - 5)
    content = b"header." + chunk(1, first) + bytes(5) + chunk(2, b"a") + chunk(3, b"b")
    path = tmp_path / "run.wandb"
    path.write_bytes(content + chunk(4, b"c") + chunk(1, b"next") + chunk(2, b"half"))
    assert list(records_in(path)) == [first, b"abc", b"next"]


def test_an_upload_starts_in_the_results_folder(run, monkeypatch):
    called = playing(monkeypatch, marker=run.with_suffix(".wandb.synced"))
    root = run.parents[3]
    upload(run, root)
    assert called["command"][1:] == ["-m", "wandb", "sync", "wandb/wandb/offline-run-1"]
    assert called["cwd"] == root
    assert called["env"]["WANDB_PROGRAM"] == "seme-bench"


@pytest.mark.parametrize("code", [0, 1])
def test_an_upload_that_wandb_did_not_end_is_an_error_with_its_words(run, monkeypatch, code):
    # wandb exits with 0 when it gives up on the network, but leaves no marker
    playing(monkeypatch, code=code, error="x" * 500 + "connection refused\n")
    with pytest.raises(ConnectionError, match=r"wandb sync failed: x{382}connection refused$"):
        upload(run, run.parents[3])


def test_the_commands_upload_merges_before_scores_and_only_what_is_there(tmp_path):
    assert upload_commands(tmp_path) == []
    (tmp_path / "runs" / "ties-1" / "wandb" / "evaluation" / "wandb").mkdir(parents=True)
    (tmp_path / "runs" / "ties-1" / "wandb" / "merge" / "wandb").mkdir(parents=True)
    sync = "WANDB_PROGRAM=seme-bench wandb sync"
    assert upload_commands(tmp_path) == [
        f"cd {tmp_path}",
        f"{sync} runs/*/wandb/merge/wandb",
        f"{sync} runs/*/wandb/evaluation/wandb",
    ]
