import shutil

import pytest

from eval.leaderboard.board import boards_of
from eval.leaderboard.standing import standings_of
from eval.results_folder import load_results


@pytest.fixture
def root(repository, tmp_path):
    """The published runs on the test split of two methods and of what they are held against."""
    source = repository / "results" / "published" / "runs"
    for pattern in ("seme-*", "task_arithmetic-*", "base-*", "format-*", "mathematics-*"):
        for folder in source.glob(f"{pattern}/"):
            shutil.copytree(folder, tmp_path / "runs" / folder.name)
    return tmp_path


def standings(root):
    boards = [b for b in boards_of(load_results(root).runs) if b.split == "test"]
    standings_by_run = standings_of(boards)
    return {
        row.record.fingerprint: row for board in boards for row in board.merges
    }, standings_by_run


def test_significantly_worse_merges_are_in_a_lower_band(root):
    rows, by_run = standings(root)
    bands = {}
    for fingerprint, standing in by_run.items():
        bands.setdefault(rows[fingerprint].name, set()).add(standing.band)
    assert bands["task_arithmetic"] == {1}
    assert min(bands["seme"]) > 1
    assert by_run.keys() == {f for f, row in rows.items() if row.mean is not None}


def test_win_probability_is_against_the_pivot_and_the_best_source(root):
    rows, by_run = standings(root)
    best = next(f for f, row in rows.items() if row.rank == 1)
    assert by_run[best].better_than.keys() == {"base", "mathematics"}
    assert by_run[best].better_than["base"] > 0.999
    assert all(
        0 <= p <= 1 for standing in by_run.values() for p in standing.better_than.values()
    )


def test_merge_without_samples_has_no_standing(root):
    rows, before = standings(root)
    worst = max(rows, key=lambda f: rows[f].rank or 0)
    (root / "runs" / f"{rows[worst].name}-{worst[:12]}" / "samples.jsonl.gz").unlink()
    _, after = standings(root)
    assert after.keys() == before.keys() - {worst}
