"""The process of a lock: looked up by its machine, id and start."""

import os
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from eval import owner as module
from eval.owner import Owner, machine_mark


def test_this_process_has_not_ended_and_is_of_this_machine():
    here = Owner.here()
    assert (here.pid, here.is_of_this_machine(), here.has_ended()) == (os.getpid(), True, False)
    assert str(here) == f"{here.user} on {here.host}, process {os.getpid()}"


def test_a_process_that_ended_has_ended():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert replace(Owner.here(), pid=child.pid).has_ended()


def test_a_process_that_nobody_waited_for_has_ended():
    child = subprocess.Popen([sys.executable, "-c", ""])
    of_child = replace(
        Owner.here(), pid=child.pid, started=psutil.Process(child.pid).create_time()
    )
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    assert of_child.has_ended()
    child.wait()


@pytest.mark.parametrize(("seconds", "ended"), [(59.0, False), (61.0, True)])
def test_an_id_that_another_process_has_now_is_told_by_its_start(seconds, ended):
    here = Owner.here()
    assert replace(here, started=here.started - seconds).has_ended() is ended


@pytest.mark.parametrize("change", [{"host": "other"}, {"machine": "another boot"}])
def test_equal_ids_of_two_machines_are_two_processes(change):
    assert not replace(Owner.here(), **change).is_of_this_machine()


def test_machines_of_one_name_differ_by_their_boot(monkeypatch):
    before = machine_mark()
    assert len(before) == 8
    monkeypatch.setattr(module, "_machine", lambda: "another boot")
    assert machine_mark() != before


def test_a_process_that_the_system_hides_counts_as_running(monkeypatch):
    def hidden(pid):
        raise psutil.NoSuchProcess(pid)

    here = Owner.here()
    monkeypatch.setattr(psutil, "Process", hidden)
    assert not here.has_ended()


def test_a_user_without_a_name_is_a_number(monkeypatch):
    def nameless():
        raise KeyError("uid")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert Owner.here().user == str(os.getuid())


def test_an_owner_is_read_as_it_was_written_and_nothing_else_is():
    here = Owner.here()
    entries = here.to_json()
    assert Owner.from_json(entries) == here
    for damaged in (None, [], {**entries, "pid": "1"}, {**entries, "started": float("nan")}):
        assert Owner.from_json(damaged) is None
