"""Comparison of a results folder with an undisturbed one: each way to differ is found."""

import json
import re
import shutil
import signal
from dataclasses import replace

import pytest

from eval.leaderboard.tables import read_leaderboard, write_tables
from eval.tracking.mirror import run_id_of
from scripts.kill_runs.results import differences, results_of, temporary_in
from scripts.kill_runs.sweeps import Sweep, start_sweep
from scripts.kill_runs.trials import _is_said, main
from seme_bench.interruption import LINE, WAITS
from tests.offline_runs import make_record, make_reference, write


def write_whole(root):
    """What a sweep of two runs leaves: records, samples, markers, W&B runs, tables, its folder."""
    for record in (make_record(), make_reference()):
        facts = {"provenance": {"identity": {"method": record.name}}}
        record = replace(record, **facts)
        folder = write(root, record).parent
        marker = {"run": run_id_of(record), "complete": True}
        (folder / "wandb.json").write_text(json.dumps(marker))
        (root / f"wandb/offline-run-20260101_000000-{marker['run']}").mkdir(parents=True)
    (root / "sweeps/2026-01-01_00-00-00-abcdef/0").mkdir(parents=True)
    (root / "sweeps/2026-01-01_00-00-00-abcdef/0/cell.json").write_text("{}")
    write_tables(root, read_leaderboard(root))
    return root


@pytest.fixture
def root(tmp_path):
    return write_whole(tmp_path / "whole")


def run(root):
    """The folder of the merge."""
    return next(path.parent for path in root.glob("runs/ties-*/record.json"))


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def mirrored(root):
    """The W&B run of the merge."""
    number = json.loads((run(root) / "wandb.json").read_text())["run"]
    return root / f"wandb/offline-run-20260101_000000-{number}"


DIFFERENCES = {
    "the record of ties-.* differs": lambda r: rewrite(run(r) / "record.json", seed=4),
    "the samples of ties-.* differ": lambda r: (run(r) / "samples.jsonl.gz").unlink(),
    "runs/ties-.*/samples.jsonl.gz is missing": lambda r: (run(r) / "samples.jsonl.gz").unlink(),
    "leaderboard.csv is not that of the records": lambda r: (r / "leaderboard.csv").write_text(""),
    "leaderboard.md is not that of the records": lambda r: (r / "leaderboard.md").unlink(),
    "scratch-ties is left over": lambda r: (r / "scratch-ties").mkdir(),
    "runs/ties-.*/.record.json.abcdefgh is left over": lambda r: (
        run(r) / ".record.json.abcdefgh"
    ).touch(),
    r"sweeps/\*/0/more is left over": lambda r: next(r.glob("sweeps/*/0"))
    .joinpath("more")
    .touch(),
    "ties-.* has 1 W&B runs, marked": lambda r: rewrite(run(r) / "wandb.json", complete=False),
    "ties-.* has 0 W&B runs, marked": lambda r: mirrored(r).rmdir(),
    "3 W&B runs of 2 records": lambda r: (r / "wandb/offline-run-20260101_000000-x").mkdir(),
}  # fmt: skip


def test_a_folder_like_the_undisturbed_one_differs_in_nothing(root, tmp_path):
    other = shutil.copytree(root, tmp_path / "other")
    rewrite(run(other) / "record.json", seconds_total=99.0)
    write_tables(other, read_leaderboard(other))
    next(other.glob("sweeps/*")).rename(other / "sweeps/2026-01-02_00-00-00-fedcba")
    later = mirrored(other).name.replace("20260101", "20260102")
    mirrored(other).rename(other / "wandb" / later)
    (other / "wandb/broken/offline-run-1").mkdir(parents=True)
    assert list(differences(other, results_of(root))) == []


@pytest.mark.parametrize("said", DIFFERENCES)
def test_every_difference_is_found(said, root, tmp_path):
    other = shutil.copytree(root, tmp_path / "other")
    DIFFERENCES[said](other)
    found = list(differences(other, results_of(root)))
    assert any(re.match(said, line) for line in found), found


def test_temporary_names_are_listed(root):
    assert temporary_in(root) == []
    for name in ("scratch-ties-0", ".seme-writing-scratch-x", ".leaderboard.md.12345678"):
        (root / name).touch()
    assert len(temporary_in(root)) == 3


@pytest.mark.parametrize(
    ("number", "code", "lines", "said"),
    [
        (signal.SIGKILL, -9, [], True),
        (signal.SIGKILL, -9, ["Traceback"], False),
        (signal.SIGKILL, 1, [], False),
        (signal.SIGTERM, 143, [LINE], True),
        (signal.SIGTERM, 130, [LINE], False),
        (signal.SIGTERM, 143, [WAITS, LINE], False),
        (signal.SIGTERM, 143, [], False),
        (signal.SIGINT, 130, [WAITS, LINE], True),
        (signal.SIGINT, 130, [LINE], True),
        (signal.SIGINT, 130, [LINE, LINE], False),
        (signal.SIGINT, 0, [WAITS], True),
        (signal.SIGINT, 0, [], True),
        (signal.SIGINT, 0, ["warning"], False),
    ],
)
def test_an_end_is_as_promised_or_is_named(number, code, lines, said):
    assert _is_said(number, code, "".join(f"\n{line}\n" for line in lines)) is said


def test_arguments_that_cannot_be_used_are_said(tmp_path, capsys):
    (tmp_path / "full").touch()
    for arguments in (
        [],
        ["folder=x", "kill=1"],
        ["folder=x", "kills=-1"],
        [f"folder={tmp_path}"],
    ):
        assert main(arguments) == 2
        assert "usage: python -m scripts.kill_runs folder=FOLDER" in capsys.readouterr().err


def test_a_process_that_has_ended_is_sent_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.kill_runs.sweeps._ARGUMENTS", ("--no-such-option",))
    sweep = start_sweep(tmp_path / "x", anew=True)
    assert sweep.wait() == 2
    sweep.send(signal.SIGKILL)
    assert (sweep.code, sweep.is_running, sweep.handles_signals) == (2, False, False)
    assert "--no-such-option" in sweep.text("error")
    assert isinstance(sweep, Sweep)
