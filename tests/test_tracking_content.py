"""Content of W&B runs: of a record, of the files of a leaderboard."""

import csv

import pytest

from eval.schema import to_json
from eval.tracking.content import leaderboard_content, record_content
from scripts.leaderboard import main as write_files
from tests.offline_runs import COST, make_record, make_reference, model, write, write_three


def content(tmp_path, record):
    return record_content(record, write(tmp_path, record))


def test_config_has_kind_method_settings_and_models(tmp_path):
    config = content(tmp_path, make_record()).config
    assert (config["kind"], config["method"], config["settings"], config["seed"]) == (
        "merge", "ties", {"density": 0.1}, 3,
    )  # fmt: skip
    assert config["models"]["pivot"] == to_json(model("base"))


def test_summary_has_scores_mean_seconds_and_memory(tmp_path):
    summary = content(tmp_path, make_record(evaluation_cost=COST)).summary
    assert (summary["score/code"], summary["score/mean"]) == (0.5, 0.375)
    for stage in ("merge", "evaluation"):
        assert summary[f"{stage}/seconds"] == 0.25
        assert summary[f"{stage}/peak_rss_bytes"] == 900


def test_summary_is_parted_into_numbers_and_texts(tmp_path):
    merge = content(tmp_path, make_record())
    assert merge.texts() == {"status": "done", "merge/source": "VmHWM"}
    assert merge.numbers().keys() | merge.texts().keys() == {
        key for key, value in merge.summary.items() if value is not None
    }
    assert merge.numbers()["merge/peak_rss_bytes"] == 900.0


def test_flat_config_has_dotted_names_and_lists_as_json(tmp_path):
    flat = content(
        tmp_path, make_record(settings={"weights": [1, 2], "lam": None})
    ).flat_config()
    assert flat["settings.weights"] == "[1, 2]"
    assert flat["models.pivot.content_hash"] == "hash-of-base"
    assert "settings.lam" not in flat


def test_reference_has_no_merge_cost(tmp_path):
    reference = content(tmp_path, make_reference())
    assert reference.job_type == "reference"
    assert not [key for key in reference.summary if key.startswith("merge/")]


def test_score_table_is_in_suite_order(tmp_path):
    table = content(tmp_path, make_record()).tables["scores"]
    assert table.columns[:3] == ("task", "domain", "score")
    assert table.rows == (
        ("code", "code", 0.5, 0.1, 2, "acc", 0.5),
        ("french", "french", 0.25, 0.1, 2, "acc", 0.25),
    )


def test_a_merge_without_evaluation_has_no_table(tmp_path):
    merge = content(tmp_path, make_record(suite=None, scores={}, domains={}))
    assert merge.tables == {}
    assert merge.tags == ("ties", "zoo", "none", "done")


def test_artifact_is_the_record_file(tmp_path):
    merge = content(tmp_path, make_record())
    assert [path.relative_to(merge.folder).as_posix() for path in merge.files] == [
        "record.json"
    ]


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
