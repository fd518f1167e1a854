"""Locks over processes and hosts: exclusion, heartbeats, takeover of the dead."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time

import pytest

from eval import run_lock as module
from eval.owner import Owner
from eval.run_lock import DEAD_AFTER, RunLock, latest_claim

HOLDER = """
import socket, sys
host, folder = sys.argv[1:]
if host: socket.gethostname = lambda: host
from pathlib import Path
from eval.run_lock import RunLock
with RunLock(Path(folder), about={"label": "ties"}) as lock:
    lock.note("merging")
    print("held", flush=True)
    sys.stdin.readline()
"""
COUNTER = """
import socket, sys, time
host, folder, times = sys.argv[1:]
if host: socket.gethostname = lambda: host
from pathlib import Path
from eval.run_lock import RunLock
counter = Path(folder).parent / "counter"
for _ in range(int(times)):
    with RunLock(Path(folder)):
        seen = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(seen + 1))
"""


def start(script, *arguments, before=()):
    command = [*before, sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def held_elsewhere(tmp_path):
    """Start a process that holds the lock ``tmp_path/ties``, on a host of this name."""
    children = []

    def hold(host="", before=()):
        child = start(HOLDER, host, tmp_path / "ties", before=before)
        children.append(child)
        assert child.stdout.readline() == "held\n", child.stderr.read()
        return child

    yield hold
    for child in children:
        child.kill()
        child.communicate()


def last_beat_was(folder, seconds):
    """Set back the time of the latest claim."""
    (path,) = folder.glob("*.lock")
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.mark.parametrize("host", ["", "node-2"])
def test_a_second_process_waits_for_the_first(held_elsewhere, tmp_path, host):
    child = held_elsewhere(host)
    lock = RunLock(tmp_path / "ties")
    assert lock.acquire(wait=False) is False
    claim = latest_claim(tmp_path / "ties")
    assert (claim.owner.pid, claim.about, claim.stage) == (
        child.pid,
        {"label": "ties"},
        "merging",
    )
    assert claim.owner.host == (host or Owner.here().host)
    child.communicate("\n")
    assert lock.acquire()
    lock.release()
    assert [path.name for path in (tmp_path / "ties").iterdir()] == ["2.free"]


def test_who_waits_says_once_for_whom(held_elsewhere, tmp_path):
    child, said = held_elsewhere("node-2"), []

    def let_go(sentence):
        said.append(sentence)
        child.communicate("\n")

    with RunLock(tmp_path / "ties", say=let_go):
        pass
    (sentence,) = said
    assert f"on node-2, process {child.pid}, which has this run since 20" in sentence


def test_a_killed_process_of_this_machine_is_followed_at_once_and_named(
    held_elsewhere, tmp_path, caplog
):
    child = held_elsewhere()
    child.kill()
    child.communicate()
    assert RunLock(tmp_path / "ties").acquire(wait=False)
    (line,) = caplog.messages
    assert line.startswith(
        f"ties  taken over from {Owner.here().user} on {Owner.here().host}, "
    )
    assert f"process {child.pid}, which died: it had the run since 20" in line


def test_a_process_of_another_host_is_dead_after_its_last_heartbeat(held_elsewhere, tmp_path):
    held_elsewhere("node-2").kill()
    lock = RunLock(tmp_path / "ties")
    last_beat_was(tmp_path / "ties", DEAD_AFTER - 5)
    assert lock.acquire(wait=False) is False
    last_beat_was(tmp_path / "ties", DEAD_AFTER + 1)
    assert lock.acquire(wait=False) is True
    lock.release()


def test_a_stopped_process_of_this_machine_keeps_its_lock(held_elsewhere, tmp_path):
    held_elsewhere()
    last_beat_was(tmp_path / "ties", 10 * DEAD_AFTER)
    assert RunLock(tmp_path / "ties").acquire(wait=False) is False


@pytest.mark.parametrize("hosts", [("", ""), ("node-1", "node-2", "")])
def test_processes_of_several_hosts_never_have_it_together(tmp_path, hosts):
    (tmp_path / "counter").write_text("0")
    (tmp_path / "ties").mkdir()
    dead = Owner.here().to_json() | {"host": "node-9"}
    (tmp_path / "ties/7.lock").write_text(json.dumps({"owner": dead}))
    last_beat_was(tmp_path / "ties", DEAD_AFTER + 1)
    children = [start(COUNTER, host, tmp_path / "ties", 20) for host in hosts]
    errors = [child.communicate()[1] for child in children]
    assert (tmp_path / "counter").read_text() == str(20 * len(hosts)), errors
    assert sum("taken over from" in error for error in errors) == 1
    assert [path.name for path in (tmp_path / "ties").iterdir()] == [
        f"{7 + 20 * len(hosts)}.free"
    ]


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "--uts", "--net", "true"], check=False).returncode != 0,
    reason="needs to make namespaces",
)
def test_a_host_in_another_network_is_told_from_this_one(held_elsewhere, tmp_path):
    script = 'hostname node-3 && exec "$@"'
    child = held_elsewhere(before=("unshare", "--uts", "--net", "sh", "-c", script, "sh"))
    lock = RunLock(tmp_path / "ties")
    assert lock.acquire(wait=False) is False
    assert latest_claim(tmp_path / "ties").owner.host == "node-3"
    child.kill()  # this machine could look its process up, a network file system's could not
    child.communicate()
    assert lock.acquire(wait=False) is False
    last_beat_was(tmp_path / "ties", DEAD_AFTER + 1)
    assert lock.acquire(wait=False) is True
    lock.release()


def test_a_late_contender_cannot_take_a_number_that_was_used_before(tmp_path):
    (tmp_path / "5.free").touch()
    assert RunLock(tmp_path)._claim(1) is False
    assert [path.name for path in tmp_path.iterdir()] == ["5.free"]


def test_an_owner_that_was_taken_for_dead_is_told_and_leaves_the_lock_alone(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(module, "HEARTBEAT", 0.01)
    lock = RunLock(tmp_path / "ties")
    with caplog.at_level(logging.WARNING), lock:
        (tmp_path / "ties/1.lock").rename(tmp_path / "ties/2.lock")  # as if by another
        deadline = time.monotonic() + 10
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
        lock.note("merging")
    (line,) = caplog.messages
    assert line.startswith("ties  another worker has taken this run over")
    assert [path.name for path in (tmp_path / "ties").iterdir()] == ["2.lock"]


def test_heartbeats_renew_the_time_of_a_claim(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT", 0.01)
    with RunLock(tmp_path):
        os.utime(tmp_path / "1.lock", (0, 0))
        deadline = time.monotonic() + 10
        while latest_claim(tmp_path).beat == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert abs(latest_claim(tmp_path).beat - time.time()) < 10


@pytest.mark.parametrize(
    "content", [b"", b"\xff{", b"[]", b'{"owner": {"pid": 1}}', b"[" * 9999]
)
def test_a_damaged_claim_is_held_until_it_is_old(tmp_path, content):
    (tmp_path / "3.lock").write_bytes(content)
    lock = RunLock(tmp_path)
    assert lock.acquire(wait=False) is False
    assert latest_claim(tmp_path).whose() == "an unknown process"
    last_beat_was(tmp_path, DEAD_AFTER + 1)
    assert lock.acquire(wait=False) is True
    lock.release()


def test_the_last_whole_note_is_the_stage(tmp_path):
    with RunLock(tmp_path) as lock:
        lock.note("merging")
        lock.note("scoring on zoo")
        with (tmp_path / "1.lock").open("a") as file:
            file.write('{"stage": "half wri')
        assert latest_claim(tmp_path).stage == "scoring on zoo"


def test_a_full_disk_leaves_the_lock_free(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_numbers", full)
    lock = RunLock(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        lock._claim(0)
    assert [path.name for path in tmp_path.iterdir()] == ["1.free"]


def test_files_of_other_names_are_no_claims(tmp_path):
    for name in ("0.lock", "1.lock.tmp", "x.free", "-1.lock", ".nfs0001"):
        (tmp_path / name).touch()
    assert latest_claim(tmp_path) is None
    assert latest_claim(tmp_path / "absent") is None
