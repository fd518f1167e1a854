"""Status of sweeps as text: counts, owners, heartbeats; nothing a terminal would obey."""

import json
import subprocess
import sys

import pytest

from eval.folders import run_lock
from eval.owner import Owner
from eval.sweep_state import write_plan
from scripts.status import _ago, _local, main, printable


@pytest.fixture
def root(tmp_path):
    """A results folder with a single run, and a sweep of three cells under way."""
    (tmp_path / "sweeps/2026-01-01").mkdir(parents=True)
    ended = {"cell": "method=average", "error": None}
    (tmp_path / "sweeps/2026-01-01/cell.json").write_text(json.dumps(ended))
    cells = [["method=ties", f"tau={tau}"] for tau in (0.1, 0.2, 0.3)]
    folder = tmp_path / "sweeps/2026-01-02"
    lock = write_plan(folder, cells, keys=["tau"], launcher="joblib")
    (folder / "0").mkdir()
    failed = {"cell": "tau=0.1", "error": "no \x1b[31mspace\nat all", "refused": False}
    (folder / "0/cell.json").write_text(json.dumps(failed))
    about = {"sweep": "2026-01-02", "index": 1, "label": "base (unmerged), 1 of 2"}
    with run_lock(tmp_path, "ties-1", about=about) as running:
        running.note("scoring on zoo, 12 tasks")
        yield tmp_path
    lock.release()


def test_cells_are_shown_with_their_state_and_who_runs_them(root, capsys):
    assert main([f"output={root}"]) == 0
    heading, header, *rows, more = capsys.readouterr().out.splitlines()
    here = Owner.here()
    assert heading == f"2026-01-02: 1 failed, 1 running, 1 waiting; launched by joblib, {here}"
    assert header.split() == ["cell", "state", "host", "process", "since", "heartbeat", "stage"]
    assert [" ".join(row.split()) for row in (rows[0], rows[2])] == [
        "1 method=ties tau=0.1 failed no \N{REPLACEMENT CHARACTER}[31mspace",
        "3 method=ties tau=0.3 waiting",
    ]
    running = " ".join(rows[1].split())
    assert running.startswith(
        f"2 method=ties tau=0.2 running {here.host} {here.pid} {here.user}"
    )
    assert running.endswith("s ago base (unmerged): scoring on zoo, 12 tasks")
    assert more == "1 earlier sweep or runs: sweep=all"


def test_a_sweep_is_chosen_by_its_name_or_all_are_shown(root, capsys):
    assert main([f"output={root}", "sweep=2026-01-01"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "2026-01-01: 1 done"
    assert main([f"output={root}", "sweep=all"]) == 0
    shown = capsys.readouterr().out
    assert "2026-01-01: 1 done" in shown
    assert "2026-01-02: 1 failed" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["out=x"], 2, "usage: python -m scripts.status"),
        (["output="], 2, "usage: "),
        (["output=absent"], 1, "error: absent has no sweep: output must be a results folder"),
        (["output={root}", "sweep=x"], 1, "has no sweep x"),
    ],
)
def test_what_cannot_be_shown_is_one_line(root, capsys, arguments, code, message):
    assert main([argument.format(root=root) for argument in arguments]) == code
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert message in shown.err


def test_piped_output_is_plain_and_whole(root, repository):
    command = [sys.executable, "-m", "scripts.status", f"output={root}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 6


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h")]
)
def test_times_are_said_in_the_largest_unit_that_they_fill_twice(seconds, text):
    assert _ago(seconds) == text


def test_a_damaged_time_is_shown_as_it_stands():
    assert _local("yesterday") == "yesterday"
    assert _local("2026-01-02T03:04:05+00:00").startswith("2026-01-0")


def test_long_texts_are_cut():
    assert printable("abcdefgh", 6) == "abc..."
