"""Ranks and bands of many methods in a report, and two pools side by side."""

import pytest

from eval.leaderboard.board import boards_of
from eval.report.ranking import MANY, bands, has_many_methods, on_both_pools, ranked_table
from eval.results_folder import load_results
from tests.report_records import Results, pool

RIGHT = {"ties": 24, "dare": 23, **{f"method_{i}": 4 for i in range(MANY - 2)}}
"""Methods to right answers of 24; the tests tell 23 from 4, but not from 24."""


def results(folder, right=RIGHT, name="zoo"):
    """One run per method, and TIES at two settings on the validation split."""
    made = Results(folder)
    made.add_unmerged("base", 2)
    models = pool(name)
    for method, n in right.items():
        settings = {"lam": 1.5, "scope": "model"} if method == "ties" else {}
        made.add(method, n, settings=settings, models=models)
    for lam in (1.0, 1.5):
        settings = {"lam": lam, "scope": "model"}
        made.add("ties", 20, settings=settings, models=models, split="validation")
    return made


def boards(folder, *arguments):
    made = results(folder, *arguments)
    return boards_of(load_results(made.root).runs)


def on_test(of):
    return next(board for board in of if board.split == "test")


@pytest.fixture
def zoo(tmp_path):
    return boards(tmp_path / "zoo")


def test_many_methods_make_a_ranked_table(zoo):
    assert has_many_methods(on_test(zoo))
    assert not has_many_methods(next(board for board in zoo if board.split == "validation"))


def test_ranked_table_lists_unmerged_models_then_merges_by_rank_with_their_bands(zoo):
    table = ranked_table(on_test(zoo), zoo)
    columns = [row[:4] for row in table.rows]
    assert columns[:3] == [
        ("", "", "base", "unmerged"),
        ("1", "1", "TIES", "lam=1.5"),  # of its settings the one that was tried at two values
        ("2", "1", "DARE", ""),
    ]
    assert {row[:2] for row in table.rows[3:]} == {("3", "2")}


def test_bands_are_listed_with_their_methods_and_ranges(zoo):
    answer = bands([on_test(zoo)])
    first, second = answer.tables[0].rows
    assert first == ("zoo", "1", "TIES, DARE", "95.83 to 100.00", "1.00", "10")
    assert second[:2] == ("zoo", "2")
    assert second[3] == "16.67"
    assert answer.finding == "In the first band are, on zoo: TIES, DARE."


def test_a_board_with_several_runs_of_a_method_is_no_comparison(tmp_path):
    made = results(tmp_path)
    made.add("ties", 12, settings={"lam": 1.0, "scope": "model"}, models=pool())
    assert bands([on_test(boards_of(load_results(made.root).runs))]) is None


def test_both_pools_list_the_methods_they_share(zoo, tmp_path):
    other = boards(tmp_path / "other", {**RIGHT, "dare": 4, "sce": 24}, "other")
    answer = on_both_pools(zoo, other)
    rows = {row[0]: row for row in answer.tables[0].rows}
    assert len(rows) == MANY
    assert [rows["DARE"][i] for i in (1, 2, 5, 6)] == ["2", "1", "3", "2"]
    assert answer.finding == "In the first band of both: TIES."


def test_one_pool_alone_is_not_set_beside_another(zoo):
    assert on_both_pools(zoo, ()) is None
