"""Locks, records and failures of a run, without a merge."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from omegaconf import OmegaConf

from eval.configuration import plain_values
from eval.leaderboard.tables import read_leaderboard
from eval.records import read_record, run_folder
from eval.results_folder import load_results
from eval.run_lock import latest_claim
from eval.runs import Cell
from eval.suite import Suite, SuiteTask
from eval.sweep import Sweep
from seme_bench.entries import check_entries, name_after_files
from tests.made_up_runs import pool_ref

MODELS = pool_ref("p", sources=("base",))
ENTRIES = [
    "method", "models", "suite", "tau", "seed", "device", "dtype", "include",
    "exclude", "overrides", "tokens", "output", "merged_dir", "datasets_dir", "memory_budget",
    "max_shard_size", "push", "merged_as", "adapter_rank", "force", "plan", "quiet",
]  # fmt: skip
GROUPS = {"tracker": {"none": {}}, "evaluator": {"name": "hf"}}


@pytest.fixture
def cell(tmp_path):
    return Cell(
        output=tmp_path / "results", seed=0, dtype=None, device="cpu", suite=None,
        tracker={"none": {}}, group="sweep", provenance={}, force=False, progress=False,
    )  # fmt: skip


@pytest.fixture
def draft(cell):
    return cell.draft("ties", {"method": "ties"}, MODELS, settings={})


def statuses(cell):
    return [row.status for row in read_leaderboard(cell.output).boards[0].rows]


VALID = dict.fromkeys(ENTRIES, False) | GROUPS | {"merged_dir": None, "datasets_dir": None}


def fail(cell, draft, error):
    with pytest.raises(type(error)), cell.record_failure(draft):
        raise error


def test_fingerprint_depends_on_identity_not_on_the_cell(cell, tmp_path):
    first = cell.draft("ties", {"lam": 1.0, "tau": 0.1}, MODELS)
    moved = replace(cell, output=tmp_path / "other", group="g", device="cuda", force=True)
    assert len(first.fingerprint) == 32
    assert moved.draft("x", {"tau": 0.1, "lam": 1.0}, MODELS).fingerprint == first.fingerprint
    assert cell.draft("ties", {"lam": 1.0, "tau": 0.2}, MODELS).fingerprint != first.fingerprint


def test_fingerprint_depends_on_the_evaluation_device(cell, tmp_path):
    task = SuiteTask(task="a", metric="acc", domain="d", kind="generate", score="raw")
    suite = Suite(
        name="s", split=None, include_path=tmp_path, batch_size=1, limit=None, tasks=(task,),
        held_out=(),
    )  # fmt: skip
    on_cpu = replace(cell, suite=suite)
    on_gpu = replace(on_cpu, device="cuda")
    fingerprints = [
        c.draft("x", {}, MODELS).fingerprint
        for c in (on_cpu, on_gpu, replace(on_gpu, dtype="float16"))
    ]
    assert len(set(fingerprints)) == 3
    assert replace(on_gpu, group="g").draft("x", {}, MODELS).fingerprint == fingerprints[1]
    stated = replace(suite, dtype="bfloat16")  # then the device changes no precision
    on_both = {
        replace(c, suite=stated).draft("x", {}, MODELS).fingerprint for c in (on_cpu, on_gpu)
    }
    assert len(on_both) == 1
    assert not on_both & set(fingerprints)


def test_finished_run_is_found_by_fingerprint_under_any_name(cell, draft, tmp_path):
    assert cell.find_done(draft) is None
    record = cell.finish(draft, tmp_path)
    assert cell.find_done(draft) == record
    assert cell.find_done(replace(draft, name="other")) == record
    assert cell.find_done(replace(draft, fingerprint="0" * 32)) is None


def test_failure_is_recorded_with_notes_and_reraised(cell, draft):
    error = ValueError("lam must be a finite number, got inf")
    error.add_note("while merging a with shape (2,)")
    fail(cell, draft, error)
    (record,) = load_results(cell.output).records
    assert (record.status, record.name) == ("failed", "ties")
    assert (
        record.error == "lam must be a finite number, got inf\nwhile merging a with shape (2,)"
    )
    assert cell.find_done(draft) is None


def test_later_success_replaces_a_failure(cell, draft, tmp_path):
    fail(cell, draft, ValueError("no"))
    assert statuses(cell) == ["failed: no"]
    cell.finish(draft, tmp_path)
    assert statuses(cell) == ["done"]


def test_later_failure_keeps_the_finished_record(cell, draft, tmp_path):
    record = cell.finish(draft, tmp_path)
    fail(cell, draft, ValueError("no"))
    assert load_results(cell.output).records == (record,)


def test_interrupt_is_not_recorded(cell, draft):
    fail(cell, draft, KeyboardInterrupt())
    assert load_results(cell.output).records == ()


def test_each_run_has_its_own_lock(cell, draft):
    one, other = (replace(draft, name=f"Qwen2.5-{size}B") for size in ("0.5", "1.5"))
    with cell.locked(one), cell.locked(other):
        folders = sorted(path.parent.name for path in cell.output.glob(".locks/*/*.lock"))
    assert folders == [run_folder(Path(), r.name, r.fingerprint).name for r in (one, other)]


def test_a_run_is_taken_while_it_is_locked(cell, draft):
    assert not cell.is_taken(draft)
    with cell.locked(draft):
        assert cell.is_taken(draft)
    assert not cell.is_taken(draft)


def test_a_run_tells_others_whose_cell_it_is_and_what_it_does(cell, draft):
    of_sweep = replace(cell, label="[2/3] ties", group="sweep-7", index=1, progress=True)
    with of_sweep.locked(draft) as locked:
        locked.say("merging 2 sources")
        (folder,) = cell.output.glob(".locks/*")
        claim = latest_claim(folder)
    assert claim.about == {"label": "[2/3] ties", "sweep": "sweep-7", "index": 1}
    assert claim.stage == "merging 2 sources"


def test_record_is_written_before_tracking_and_survives_its_failure(
    cell, draft, tmp_path, monkeypatch, caplog
):
    seen = []

    def init(**_options):
        seen.extend(load_results(cell.output).records)
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", init)
    tracker = {"wandb": {"mode": "offline", "project": "p", "entity": None, "tags": []}}
    with caplog.at_level(logging.WARNING):
        record = replace(cell, tracker=tracker).finish(draft, tmp_path)
    assert seen == [record] == [read_record(next(cell.output.glob("runs/*/record.json")))]
    assert "no route to host" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tua": 1},
            r"there is no entry tua; did you mean tau\?",
        ),
        ({"force": "maybe"}, "force must be true or false, got 'maybe'"),
        ({"quiet": 1}, "quiet must be true or false, got 1"),
        ({"merged_dir": 5}, "merged_dir must be a folder or null, got 5"),
        (
            {"merged_dir": "a\nb"},
            r"merged_dir must be a name of printable characters, got 'a\\nb'",
        ),
        ({"datasets_dir": 5}, "datasets_dir must be a folder or null, got 5"),
    ],
)
def test_unknown_entries_are_refused(change, message):
    config = VALID
    check_entries(config)
    with pytest.raises(ValueError, match=message):
        check_entries(config | change)
    with pytest.raises(ValueError, match=r"missing entries \['seed'\]"):
        check_entries({k: v for k, v in config.items() if k != "seed"})


@pytest.mark.parametrize("output", [None, "", " ", 5])
def test_output_that_is_no_folder_ends_the_run_before_it_makes_one(output):
    with pytest.raises(SystemExit, match="error: output must be a folder, got"):
        Sweep().on_run_start(OmegaConf.create({"output": output}))


def test_several_files_of_a_group_are_refused():
    with pytest.raises(ValueError, match="method must be one file; -m method=A,B is a sweep"):
        name_after_files({"suite": {}, "models": {}}, {"suite": "zoo", "models": "zoo"})


def test_missing_values_are_named_with_how_to_set_them():
    config = OmegaConf.create({"method": {}, "suite": {"tasks": "???"}, "models": {}})
    with pytest.raises(ValueError, match=r"suite\.tasks cannot be resolved: .*; set it, suite"):
        plain_values(config)


def test_invalid_tracker_is_refused_up_front():
    tracker = {"wandb": {"mode": "of", "project": "p", "entity": None, "tags": []}}
    with pytest.raises(ValueError, match=r"tracker\.wandb\.mode must be one of"):
        check_entries(VALID | {"tracker": tracker})


def make_twice(folder):
    folder.mkdir()
    folder.mkdir()


def test_scratch_folder_is_removed_after_use_or_failure(cell, draft):
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


def test_an_error_about_the_scratch_folder_says_what_it_was(cell, draft):
    def fail(folder):
        raise ValueError(f"{folder}: config.json says tie_word_embeddings but the head differs")

    with pytest.raises(ValueError, match="tie_word") as error, cell.scratch(draft) as folder:
        fail(folder)
    assert error.value.__notes__ == [
        f"{folder.name} was made for this run and is gone; its config.json is the pivot's, or an "
        "adapter's base's: change that (merged_dir=FOLDER keeps a merge)"
    ]


def test_a_record_that_could_not_be_read_is_refused_before_the_run(cell):
    with pytest.raises(ValueError, match=r"cannot be written as JSON: models\.pool must be"):
        cell.draft("ties", {}, replace(MODELS, pool=5), settings={})
