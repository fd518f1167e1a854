"""Leaderboards as tables, figures and a ranking; the run that shows them is read back."""

import json
from dataclasses import replace

import pytest
import wandb

from eval.leaderboard.tables import read_leaderboard
from eval.tracking.leaderboard import exhibit_of
from scripts.leaderboard import main as write_files
from scripts.track import main
from tests.offline_runs import (
    artifacts_of,
    make_record,
    make_reference,
    read_back,
    run_and_summary,
    used_and_made,
    write,
)


@pytest.fixture
def root(tmp_path):
    """Two merges, one of them better, and their pivot."""
    root = tmp_path / "results"
    for record in (make_record(), make_record("dare", 0.75), make_reference("base")):
        write(root, record)
    return root


def exhibit(root):
    assert write_files([f"output={root}"]) == 0
    found = read_leaderboard(root)
    return exhibit_of(root, found.boards, found.standings)


def one(mapping, start):
    """The only value whose key starts so."""
    (value,) = (value for key, value in mapping.items() if key.startswith(start))
    return value


def test_the_board_is_the_csv_file_with_numbers_as_numbers(root):
    shown = exhibit(root)
    table = one(shown.tables, "leaderboard/")
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["method"] for row in rows] == ["base", "dare", "ties"]
    assert [(row["rank"], row["code"]) for row in rows] == [(None, 0.25), (1, 0.75), (2, 0.5)]
    header = (root / "leaderboard.csv").read_text().splitlines()[0].split(",")
    assert list(table.columns) == [name for name in header if name in table.columns]
    assert {"mean_stderr", "merge_seconds", "status"} <= set(table.columns)
    assert "evaluation_seconds" not in table.columns  # no row has it


def test_names_that_look_like_numbers_stay_names(tmp_path):
    write(tmp_path, make_record(fingerprint="1234567890123456"))
    table = one(exhibit(tmp_path).tables, "leaderboard/")
    assert table.rows[0][table.columns.index("fingerprint")] == "1234567890123456"


def test_the_table_of_tasks_has_a_row_per_record_and_task(root):
    table = one(exhibit(root).tables, "tasks/")
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(r["method"], r["task"], r["score"]) for r in rows] == [
        ("base", "code", 0.25), ("base", "french", 0.25), ("dare", "code", 0.75),
        ("dare", "french", 0.25), ("ties", "code", 0.5), ("ties", "french", 0.25),
    ]  # fmt: skip


def test_the_ranking_is_that_of_the_board(root):
    ranking = one(exhibit(root).ranking, "zoo-zoo-")
    assert [(r["rank"], r["method"], r["mean"]) for r in ranking] == [
        (1, "dare", 0.5), (2, "ties", 0.375),
    ]  # fmt: skip
    assert [r["band"] for r in ranking] == [1, 1]  # two documents tell nothing apart


def test_the_figures_are_those_of_the_files(root):
    figures = exhibit(root).figures
    files = {path.stem: path.read_text() for path in (root / "figures").glob("*.svg")}
    assert {key.removeprefix("figures/").replace("/", ".") for key in figures} == set(files)
    for key, html in figures.items():
        assert files[key.removeprefix("figures/").replace("/", ".")] in html


def test_a_csv_file_of_other_records_is_refused(root):
    exhibit(root)
    write(root, make_record("average"))
    found = read_leaderboard(root)
    with pytest.raises(
        ValueError, match=r"other records .* run `python -m scripts.leaderboard"
    ):
        exhibit_of(root, found.boards, found.standings)


def test_paths_of_the_machine_do_not_go_along_with_the_files(root):
    error = "/home/alice/models/x is no model"
    write(root, replace(make_record("sce"), status="failed", error=error, scores={}))
    shown = exhibit(root)
    files = shown.artifact.files.values()
    held = [c if isinstance(c, bytes) else c.read_bytes() for c in files]
    assert b"x is no model" in b"".join(held)
    assert b"alice" not in b"".join(held)
    assert "alice" not in str(shown.tables)
    assert [a.name for a in shown.used if "sce" in a.name] == []  # it has no score
    assert "alice" in (root / "leaderboard.md").read_text()  # the file itself stays


def test_one_run_holds_tables_figures_ranking_files_and_the_scores_used(root, capsys):
    assert main([f"output={root}", "tracker.project=boards", "tracker.tags=[a]"]) == 0
    (records,) = read_back(root)
    run, summary = run_and_summary(records)
    assert (run.project, list(run.tags), run.job_type) == ("boards", ["a"], "leaderboard")
    assert [r["method"] for r in one(summary["ranking"], "zoo")] == ["dare", "ties"]
    used, (made,) = used_and_made(records)
    assert [name.split("-")[1] for name in used] == ["base", "dare", "ties"]
    paths = {
        e.path for a in artifacts_of(records) if a.name == made for e in a.manifest.contents
    }
    assert paths >= {"leaderboard.html", "leaderboard.csv", "leaderboard.md"}
    media = {p.suffixes[-1] for p in root.rglob("files/media/**/*") if p.is_file()}
    assert media == {".html", ".json"}
    assert str(root) not in "\n".join(map(str, records))
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"cd {root}", "WANDB_PROGRAM=seme-bench wandb sync wandb/wandb",
    ]  # fmt: skip


def test_a_failure_is_told_and_exits_with_one(root, capsys, monkeypatch):
    def fail(**_options):
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", fail)
    assert main([f"output={root}"]) == 1
    told = capsys.readouterr().err
    assert "CommError: no route to host" in told
    assert "records and leaderboards are safe" in told


def test_a_run_under_another_folder_s_name_is_told(root, capsys):
    folder = root / "runs" / "dare-dare56789abc"
    folder.rename(folder.with_name("copied"))
    assert main([f"output={root}"]) == 1
    assert "dare-dare56789abc/record.json" in capsys.readouterr().err


def test_a_damaged_record_is_told_and_the_rest_is_logged(root, capsys):
    (root / "runs" / "dare-dare56789abc" / "record.json").write_text("{")
    assert main([f"output={root}"]) == 1
    assert "dare-dare56789abc" in capsys.readouterr().err
    assert [name[:10] for name in used_and_made(read_back(root)[0])[0]] == [
        "score-base", "score-ties",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["otput=x"], "expected output=... or tracker.KEY=..., got otput=x"),
        (["tracker.mode=of"], "tracker.mode must be one of"),
        (["tracker.nmae=x"], "a tracker is"),
        (["tracker.tags=[x"], "expected ',' or ']'"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_absent_is_named(tmp_path, capsys):
    assert main([f"output={tmp_path / 'gone'}"]) == 1
    assert "gone is absent" in capsys.readouterr().err


def test_the_tables_that_wandb_shows_are_complete(root):
    main([f"output={root}"])
    (records,) = read_back(root)
    (tables,) = (a for a in artifacts_of(records) if a.type == "tables")
    for entry in tables.manifest.contents:
        table = json.loads((root / entry.local_path).read_text())
        assert len(table["data"]) == (3 if entry.path.startswith("leaderboard/") else 6)
