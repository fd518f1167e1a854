"""A run on its way to a record, with a record made by hand in place of a merge."""

import logging
from dataclasses import replace

import pytest
import wandb

from eval.leaderboard.tables import read_leaderboard
from eval.records import ModelRef, PoolRef, read_record
from eval.results_folder import load_results
from eval.runs import Cell, describe_error
from eval.suite import Suite, SuiteTask
from run import check_entries

MODEL = ModelRef(name="base", location="base", revision=None, content_hash="c")
MODELS = PoolRef(pool="p", pivot=MODEL, sources=(MODEL,), references=())
ENTRIES = [
    "method", "models", "suite", "tau", "seed", "device", "dtype", "include",
    "exclude", "output", "merged_dir", "memory_budget", "force", "plan", "quiet",
]  # fmt: skip


@pytest.fixture
def cell(tmp_path):
    return Cell(
        output=tmp_path / "results", seed=0, dtype=None, device="cpu", suite=None,
        tracker={"name": "none"}, group="sweep", provenance={}, force=False, progress=False,
    )  # fmt: skip


@pytest.fixture
def draft(cell):
    return cell.draft("ties", {"method": "ties"}, MODELS, settings={})


def statuses(cell):
    return [row.status for row in read_leaderboard(cell.output).boards[0].rows]


def fail(cell, draft, error):
    with pytest.raises(type(error)), cell.record_failure(draft):
        raise error


def test_the_fingerprint_names_the_identity_and_not_the_cell(cell, tmp_path):
    first = cell.draft("ties", {"lam": 1.0, "tau": 0.1}, MODELS)
    moved = replace(cell, output=tmp_path / "other", group="g", device="cuda", force=True)
    assert len(first.fingerprint) == 32
    assert moved.draft("x", {"tau": 0.1, "lam": 1.0}, MODELS).fingerprint == first.fingerprint
    assert cell.draft("ties", {"lam": 1.0, "tau": 0.2}, MODELS).fingerprint != first.fingerprint


def test_off_the_cpu_an_evaluation_is_another_run(cell, tmp_path):
    task = SuiteTask(task="a", metric="acc", domain="d", kind="generate", score="raw")
    suite = Suite(
        name="s", split=None, include_path=tmp_path, batch_size=1, limit=None, tasks=(task,),
        held_out=(),
    )  # fmt: skip
    here = replace(cell, suite=suite)
    there = replace(here, device="cuda")
    found = [
        c.draft("x", {}, MODELS).fingerprint
        for c in (here, there, replace(there, dtype="float16"))
    ]
    assert len(set(found)) == 3
    assert replace(there, group="g").draft("x", {}, MODELS).fingerprint == found[1]


def test_a_finished_run_is_found_under_whatever_name_it_had(cell, draft, tmp_path):
    assert cell.find_done(draft) is None
    record = cell.finish(draft, tmp_path)
    assert cell.find_done(draft) == record
    assert cell.find_done(replace(draft, name="other")) == record
    assert cell.find_done(replace(draft, fingerprint="0" * 32)) is None


def test_a_failure_is_recorded_with_where_it_happened_and_passed_on(cell, draft):
    error = ValueError("lam must be a finite number, got inf")
    error.add_note("while merging a with shape (2,)")
    fail(cell, draft, error)
    (record,) = load_results(cell.output).records
    assert (record.status, record.name) == ("failed", "ties")
    assert (
        record.error == "lam must be a finite number, got inf\nwhile merging a with shape (2,)"
    )
    assert cell.find_done(draft) is None


def test_a_later_success_takes_the_failure_s_place_on_the_board(cell, draft, tmp_path):
    fail(cell, draft, ValueError("no"))
    assert statuses(cell) == ["failed: no"]
    cell.finish(draft, tmp_path)
    assert statuses(cell) == ["done"]


def test_a_later_failure_leaves_the_finished_record(cell, draft, tmp_path):
    record = cell.finish(draft, tmp_path)
    fail(cell, draft, ValueError("no"))
    assert load_results(cell.output).records == (record,)


def test_an_interrupt_is_not_a_failure(cell, draft):
    fail(cell, draft, KeyboardInterrupt())
    assert load_results(cell.output).records == ()


def test_a_run_is_alone_and_runs_of_names_with_dots_have_locks_of_their_own(cell, draft):
    one, other = (replace(draft, name=f"Qwen2.5-{size}B") for size in ("0.5", "1.5"))
    locks = [cell.lock(record).lock_file for record in (one, other, one)]
    assert locks[0] == locks[2] != locks[1]


def test_the_record_is_there_before_the_tracker_and_survives_it(
    cell, draft, tmp_path, monkeypatch, caplog
):
    seen = []

    def init(**_options):
        seen.extend(load_results(cell.output).records)
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", init)
    tracker = {"name": "wandb", "mode": "offline", "project": "p", "entity": None, "tags": []}
    with caplog.at_level(logging.WARNING):
        record = replace(cell, tracker=tracker).finish(draft, tmp_path)
    assert seen == [record] == [read_record(next(cell.output.glob("runs/*/record.json")))]
    assert "no route to host" in caplog.text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("tau must be"), "tau must be"),
        (KeyError("a"), "KeyError: 'a'"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
    ],
)
def test_an_error_that_is_not_the_user_s_says_its_kind(error, text):
    assert describe_error(error) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tua": 1}, r"unknown entries \['tua'\], expected some of \['device', .*'tau'"),
        ({"force": "maybe"}, "force must be true or false, got 'maybe'"),
        ({"quiet": 1}, "quiet must be true or false, got 1"),
    ],
)
def test_an_entry_that_nothing_reads_is_refused(change, message):
    config = dict.fromkeys(ENTRIES, False) | {"tracker": {"name": "none"}}
    check_entries(config)
    with pytest.raises(ValueError, match=message):
        check_entries(config | change)
    with pytest.raises(ValueError, match=r"missing entries \['seed'\]"):
        check_entries({k: v for k, v in config.items() if k != "seed"})


def test_a_tracker_that_cannot_work_is_refused_before_any_work():
    tracker = {"name": "wandb", "mode": "of", "project": "p", "entity": None, "tags": []}
    with pytest.raises(ValueError, match=r"tracker\.mode must be one of"):
        check_entries(dict.fromkeys(ENTRIES, False) | {"tracker": tracker})


def test_an_error_names_paths_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = ValueError(f"{tmp_path}/models/a does not fit /elsewhere/b")
    error.add_note(f"while reading {tmp_path}/models/a")
    assert describe_error(error) == "models/a does not fit /elsewhere/b\nwhile reading models/a"


def make_twice(folder):
    folder.mkdir()
    folder.mkdir()


def test_of_a_folder_for_the_block_nothing_is_left_whatever_happens(cell, draft):
    with cell.scratch(draft) as killed:
        killed.mkdir(parents=True)
        (killed / "left").touch()
        with cell.scratch(draft) as folder:  # the process that comes behind it
            assert folder == killed
            assert not folder.exists()
        folder.mkdir()
        with pytest.raises(FileExistsError), cell.scratch(draft):
            make_twice(folder)
        assert not folder.exists()
    other = replace(draft, fingerprint="0" * 32)
    with cell.scratch(other) as elsewhere:
        assert elsewhere != folder
