"""Writable folders, and leftovers of dead and of live processes."""

import os
import subprocess
import sys
import time

import pytest

from eval.folders import check_writable, if_idle, remove_leftovers, run_lock
from eval.owner import machine_mark
from eval.run_files import atomic_write

RUN = "Qwen2.5-0.5B-0123456789ab"


def leftovers(root, writer):
    """Everything that a process which is killed may leave, by name."""
    folders = [f"scratch-{RUN}", f".seme-writing-scratch-{RUN}-0a1b2c3d-17-0a1b2c3d"]
    names = [
        "runs/x-1/.record.json",
        "runs/x-1/.samples.jsonl.gz",
        ".leaderboard.md",
        "sweeps/s/0/.cell.json",
        "figures/.zoo.heat-map.svg",
    ]
    files = [f"{name}.{writer}.abc_d123" for name in names]
    for name in folders:
        (root / name).mkdir(parents=True)
        (root / name / "model.safetensors").touch()
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [*folders, *files]


def writer_that_died():
    """The part of a temporary file's name that a process of this machine had."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return f"{machine_mark()}-{child.pid}"


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path):
    names = leftovers(tmp_path, writer_that_died())
    kept = ["runs/x-1/record.json", "scratch-mine/a", "runs/.notes.abcd1234", ".env"]
    for name in kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert [name for name in names if (tmp_path / name).exists()] == []
    assert all((tmp_path / name).exists() for name in kept)
    remove_leftovers(tmp_path / "absent")


def test_a_scratch_folder_of_a_running_process_stays(tmp_path):
    leftovers(tmp_path, writer_that_died())
    with run_lock(tmp_path, RUN):
        command = f"from eval.folders import *; remove_leftovers(Path({str(tmp_path)!r}))"
        subprocess.run([sys.executable, "-c", command], check=True)
        assert (tmp_path / f"scratch-{RUN}/model.safetensors").exists()
    with if_idle(tmp_path, RUN) as idle:
        assert idle


@pytest.mark.parametrize("name", [".record.json.0123abcd-17.abcd1234", ".record.json.abcd1234"])
def test_a_file_of_another_machine_is_removed_an_hour_after_its_last_write(tmp_path, name):
    (tmp_path / "runs/x-1").mkdir(parents=True)
    path = tmp_path / "runs/x-1" / name
    path.touch()
    for age, stays in ((3590, True), (3610, False)):
        os.utime(path, (time.time() - age,) * 2)
        remove_leftovers(tmp_path)
        assert path.exists() is stays


def test_a_file_that_is_being_written_stays(tmp_path, monkeypatch):
    real = type(tmp_path).chmod

    def swept_meanwhile(path, mode):
        remove_leftovers(tmp_path)
        real(path, mode)

    monkeypatch.setattr(type(tmp_path), "chmod", swept_meanwhile)
    atomic_write(tmp_path / "leaderboard.md", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["leaderboard.md"]


def test_an_absent_folder_is_not_created_by_the_check(tmp_path):
    check_writable(tmp_path / "a/b", entry="output=a/b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/inside", "x" * 300, "/proc/x"])
def test_a_folder_that_cannot_be_written_is_named_with_its_entry(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^merged_dir=m: nothing can be written in .*\("):
        check_writable(tmp_path / name, entry="merged_dir=m")
