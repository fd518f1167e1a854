"""Plan of a suite's data over a tiny mirror: places, what is missing, what it takes."""

import pytest
from rich.console import Console

from eval.data_plan import plan_data
from eval.suite import Suite, SuiteTask
from tests.tiny_mirror import SUMS, write_snapshot, write_sums, write_tasks

GPQA = "dataset_path: Idavidrein/gpqa\ntest_split: train"
CODE = "dataset_path: org/code\ntest_split: test\nunsafe_code: true"
OWN = "dataset_path: json\ntest_split: test\ndataset_kwargs: {data_files: {test: %s}}"


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plan tasks of a folder, as text: rows of the table without its rules, then the lines."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "prepared")
    monkeypatch.delenv("SEME_ONLINE", raising=False)
    write_tasks(tmp_path / "tasks", both__yaml="{group: both, task: [easy, hard]}")
    (tmp_path / "mirror").mkdir()

    def build(*names, tasks=None):
        write_tasks(tmp_path / "tasks", tasks or {})
        suite = Suite(
            name="s",
            include_path=tmp_path / "tasks",
            datasets_dir=tmp_path / "mirror",
            tasks=tuple(SuiteTask(task=name, domain=name) for name in names),
        )
        table, lines = plan_data(suite)
        console = Console(width=200)
        with console.capture() as capture:
            console.print(table)
        rows = [line.strip("│ ") for line in capture.get().splitlines() if line.startswith("│")]
        return [[cell.strip() for cell in row.split("│")] for row in rows], lines

    return build


def test_a_group_is_one_row_for_each_data_set(plan, tmp_path):
    rows, lines = plan("both")
    assert rows == [["both", SUMS, "missing"]]
    assert lines == [
        f"hf download {SUMS} --repo-type dataset --local-dir {tmp_path}/mirror/{SUMS}"
    ]


def test_data_of_the_mirror_and_of_the_cache_are_there(plan, tmp_path):
    write_snapshot(tmp_path / "hub")
    assert plan("both", "lines") == ([["both, lines", SUMS, "Hub's cache"]], [])
    write_sums(tmp_path / "mirror" / SUMS)
    assert plan("both", "lines") == ([["both, lines", SUMS, "mirror"]], [])


def test_a_split_that_is_not_there_is_counted_and_explained(plan, tmp_path):
    folder = write_sums(tmp_path / "mirror" / SUMS)
    (folder / "README.md").write_text(
        (folder / "README.md").read_text().replace("split: test, path: hard", "split: all, path: hard")
    )  # fmt: skip
    rows, lines = plan("both")
    assert rows == [["both", SUMS, "mirror: 1, unusable: 1"]]
    assert len(lines) == 1
    assert "task hard needs the splits ['test']" in lines[0]


def test_a_download_that_was_begun_is_missing(plan, tmp_path):
    (tmp_path / "mirror" / SUMS / ".cache/huggingface").mkdir(parents=True)
    rows, lines = plan("both")
    assert rows == [["both", SUMS, "missing"]]
    assert lines[0].startswith(f"hf download {SUMS}")


def test_gated_data_and_code_execution_are_named(plan):
    rows, lines = plan("gated", "code", tasks={"gated": GPQA, "code": CODE})
    assert rows == [
        ["gated", "Idavidrein/gpqa", "missing", "access (gated)"],
        ["code", "org/code", "missing", "code execution"],
    ]
    assert "https://huggingface.co/datasets/Idavidrein/gpqa" in lines[2]
    assert "suite.allow_code_execution=true" in lines[3]


def test_packages_and_metrics_that_are_absent_are_named(plan, monkeypatch):
    lacking = ["git+https://github.com/a/b", "metrics/code_eval"]
    monkeypatch.setattr("eval.datasets_dir.missing_extras", lambda *_: lacking)
    rows, lines = plan("easy")
    assert rows == [["easy", SUMS, "missing", "b, metrics/code_eval"]]
    assert lines[1] == "pip install git+https://github.com/a/b"
    assert lines[2].startswith("hf download evaluate-metric/code_eval --repo-type space")


def test_files_of_ones_own_need_no_download(plan, tmp_path):
    (tmp_path / "own.jsonl").write_text('{"a": 1, "target": 0}\n')
    rows, lines = plan("own", tasks={"own": OWN % (tmp_path / "own.jsonl")})
    assert (rows, lines) == ([["own", "", "own files"]], [])
