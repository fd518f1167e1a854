"""Share of the gap over the number of sources, from hand-written records."""

import pytest

from eval.report.scaling import share_by_sources
from tests.report_records import Results, pool


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path)


def scaling(results):
    """Base knows nothing; two experts know half of their own domain each."""
    records = [
        results.add_unmerged("base", {"a": 2, "b": 2}),
        results.add_unmerged("a", {"a": 12, "b": 2}),
        results.add_unmerged("b", {"a": 2, "b": 12}),
        results.add("ties", {"a": 12, "b": 2}, models=pool("one", sources=("a",))),
        results.add("ties", {"a": 7, "b": 2}, models=pool("two", sources=("a", "b"))),
    ]
    return share_by_sources(results.boards(records), "toy")


def test_gap_share_is_reported_per_number_of_sources(results):
    answer, drawing = scaling(results)
    # with one source 10 of 10 are closed, with two 5 + 0 of 10 + 10
    (row,) = answer.tables[0].rows
    assert (row[0], row[1].split()[0], row[2].split()[0]) == ("TIES", "100.00", "25.00")
    assert row[3].startswith("falls")
    assert drawing.file == "toy.share-by-sources.svg"
    assert "share of the gap" in drawing.svg


def test_gap_share_figure_is_reproducible(results, tmp_path):
    again = Results(tmp_path / "again")
    assert scaling(results)[1].svg == scaling(again)[1].svg


def test_board_with_a_non_expert_source_is_left_out(results):
    records = [
        results.add_unmerged("base", {"a": 2, "b": 2}),
        results.add_unmerged("a", {"a": 12, "b": 2}),
        results.add_unmerged("idle", {"a": 2, "b": 2}),
        results.add("ties", {"a": 12, "b": 2}, models=pool("one", sources=("a",))),
        results.add("ties", {"a": 7, "b": 2}, models=pool("two", sources=("a", "idle"))),
    ]
    assert share_by_sources(results.boards(records), "toy") is None


def test_single_number_of_sources_gives_no_answer(results):
    records = [
        results.add_unmerged("base", {"a": 2}), results.add_unmerged("expert", {"a": 12}),
        results.add("ties", {"a": 7}),
    ]  # fmt: skip
    assert share_by_sources(results.boards(records), "toy") is None
