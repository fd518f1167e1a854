"""Questions beyond the paper, answered from hand-written records."""

import pytest

from eval.report.questions import (
    barriers,
    is_midpoint,
    settings_that_matter,
    what_was_chosen,
    worth_merging,
)
from tests.report_records import Results, pool


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path)


def test_merge_is_compared_with_its_pivot_and_best_source(results):
    records = [
        results.add("ties", 18, models=pool(sources=("good", "poor"))),
        results.add_unmerged("base", 6), results.add_unmerged("good", 17),
        results.add_unmerged("poor", 3),
    ]  # fmt: skip
    answer = worth_merging(results.boards(records))
    rows = [table.rows[0] for table in answer.tables]
    assert [row[2] for row in rows] == ["base", "good"]
    assert [row[3].split()[0] for row in rows] == ["+50.00", "+4.17"]


def test_merge_without_scored_unmerged_models_is_not_compared(results):
    assert worth_merging(results.boards([results.add("ties", 18)])) is None


def test_setting_matters_if_runs_differing_only_in_it_differ(results):
    usual = {"tau": 0.1, "lam": 1.0, "select": "deltas"}
    records = [
        results.add("seme", 12, settings=usual),
        results.add("seme", 24, settings=usual | {"lam": 2.0}),
        results.add("seme", 11, settings=usual | {"select": "coefficients"}),
        results.add("seme", 0, settings={"tau": 1.0, "lam": 3.0, "select": "deltas"}),
    ]  # the last differs from each other one in two settings or more
    answer = settings_that_matter(results.boards(records))
    significant = {row[1]: row[2:4] for row in answer.tables[0].rows}
    assert significant == {"lam": ("1", "1"), "select": ("1", "0")}


def test_setting_values_are_compared_with_the_most_frequent(results):
    settings = [{"tau": 0.2, "lam": 1}, {"tau": 0.2, "lam": 2}, {"tau": 0.1, "lam": 1}]
    records = [results.add("ties", 6 + i, settings=s) for i, s in enumerate(settings)]
    rows = settings_that_matter(results.boards(records)).tables[1].rows
    assert {row[2:4] for row in rows} == {("tau=0.1", "0.2"), ("lam=2", "1")}


def test_lowest_seed_is_compared(results):
    records = [
        results.add("dare", right, seed=seed, settings={"lam": lam})
        for lam, seed, right in ((1, 1, 12), (1, 0, 6), (2, 0, 9), (2, 1, 24))
    ]
    rows = settings_that_matter(results.boards(records)).tables[0].rows
    assert rows[0][4].startswith("+12.50")  # 9 - 6 of 24


def test_runs_differing_in_several_settings_are_not_compared(results):
    records = [results.add("ties", 6, settings={"tau": t, "lam": t}) for t in (0.1, 0.2)]
    assert settings_that_matter(results.boards(records)) is None


def test_chosen_setting_is_the_best_on_validation(results):
    tried = {0.1: 6, 0.2: 9, 0.3: 7}
    records = [
        results.add("ties", right, settings={"density": d}, split="validation")
        for d, right in tried.items()
    ]
    answer = what_was_chosen(results.boards(records))
    assert [row[1] for row in answer.tables[0].rows if row[3]] == ["TIES density=0.2"]
    assert what_was_chosen(results.boards([results.add("ties", 6)])) is None


@pytest.mark.parametrize(
    ("settings", "sources", "expected"),
    [
        ({"lam": 0.5}, ("one",), True),
        ({"lam": 0.5, "tau": 1.0}, ("one",), True),
        ({"lam": 0.5, "tau": 0.1}, ("one",), False),
        ({"lam": 1.0, "tau": 1.0}, ("one",), False),
        ({"lam": 0.5}, ("one", "two"), False),
    ],
)
def test_midpoint_has_one_source_lam_one_half_and_no_mask(results, settings, sources, expected):
    record = results.add("seme", 6, settings=settings, models=pool(sources=sources))
    (board,) = results.boards([record])
    assert is_midpoint(board.merges[0]) is expected


def test_barrier_is_the_mean_of_endpoints_minus_the_midpoint(results):
    records = [
        results.add("seme", 6, settings={"tau": 1.0, "lam": 0.5}),
        results.add_unmerged("base", 12), results.add_unmerged("expert", 24),
    ]  # fmt: skip
    answer = barriers(results.boards(records))
    (row,) = answer.tables[0].rows
    assert row[:5] == ("zoo", "SeMe", "50.00", "100.00", "25.00")
    assert row[5].startswith("+50.00 ± ")  # (12 + 24) / 2 - 6 = 12 of 24
    assert answer.finding.startswith("1 of 1 ")


def test_no_midpoint_means_no_barrier(results):
    assert barriers(results.boards([results.add("seme", 6, settings={"lam": 1.0})])) is None
