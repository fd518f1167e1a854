"""The leaderboard's files as the content of a W&B run."""

import csv

import pytest

from eval.tracking.leaderboard import leaderboard_content
from scripts.leaderboard import main as write_files
from tests.offline_runs import write_three


@pytest.fixture
def root(tmp_path):
    root = write_three(tmp_path / "results")
    assert write_files([f"output={root}"]) == 0
    return root


def rows_of(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_table_equals_the_csv_with_parsed_numbers(root):
    table = leaderboard_content(root).tables["leaderboard"]
    rows = rows_of(table)
    assert [row["method"] for row in rows] == ["base", "dare", "ties"]
    assert [(row["rank"], row["code"]) for row in rows] == [(None, 0.25), (1, 0.75), (2, 0.5)]
    header = (root / "leaderboard.csv").read_text().splitlines()[0].split(",")
    assert list(table.columns) == [name for name in header if name in table.columns]
    assert {"mean_stderr", "merge_seconds", "status"} <= set(table.columns)
    assert "evaluation_seconds" not in table.columns  # no row has it


def test_numeric_looking_names_stay_strings(root):
    path = root / "leaderboard.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["fingerprint"] = "1234567890123456"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    table = leaderboard_content(root).tables["leaderboard"]
    assert {row["fingerprint"] for row in rows_of(table)} == {"1234567890123456"}


def test_figures_and_artifact_are_the_leaderboard_files(root):
    content = leaderboard_content(root)
    files = {path.relative_to(root).as_posix() for path in content.files}
    figures = {path.relative_to(root).as_posix() for path in root.glob("figures/*.svg")}
    assert figures
    assert files == figures | {"leaderboard.md", "leaderboard.csv", "leaderboard.html"}
    assert {f"{key}.svg" for key in content.figures} == figures
    for key, html in content.figures.items():
        assert (root / f"{key}.svg").read_text() in html


def test_missing_leaderboard_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"leaderboard\.csv"):
        leaderboard_content(tmp_path)
