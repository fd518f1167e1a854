"""Rules that turn comparisons into verdicts."""

import pytest

from eval.report.verdicts import (
    Verdict,
    ahead_in_all,
    ahead_once_in_each,
    all_of,
    lower_than_each,
    none_ahead,
    significantly_ahead,
)
from eval.statistics.compare import CorrectedComparison
from eval.statistics.scores import Estimate

YES, NO, UNKNOWN = Verdict.SUPPORTED, Verdict.NOT_SUPPORTED, Verdict.NOT_MEASURED


def comparison(difference, p):
    return CorrectedComparison(
        first="a", second="b", difference=Estimate(value=difference, stderr=0.1), low=0.0,
        high=0.0, probability=0.5, p_value=p, p_holm=p,
    )  # fmt: skip


AHEAD, BEHIND, EQUAL = comparison(0.2, 0.01), comparison(-0.2, 0.01), comparison(0.2, 0.5)


def test_ahead_requires_a_higher_significant_difference():
    assert significantly_ahead(AHEAD)
    assert not significantly_ahead(BEHIND)
    assert not significantly_ahead(EQUAL)
    assert not significantly_ahead(comparison(0.2, 0.05))


@pytest.mark.parametrize(
    ("comparisons", "verdict"),
    [([], UNKNOWN), ([AHEAD], YES), ([AHEAD, EQUAL], NO), ([AHEAD, BEHIND], NO), ([EQUAL], NO)],
)
def test_ahead_in_all_requires_every_comparison(comparisons, verdict):
    assert ahead_in_all(comparisons) is verdict


@pytest.mark.parametrize(
    ("groups", "verdict"),
    [
        ([], UNKNOWN),
        ([[]], UNKNOWN),
        ([[BEHIND, AHEAD], [AHEAD]], YES),
        ([[BEHIND, AHEAD], [EQUAL]], NO),
        ([[AHEAD], []], YES),
    ],
)
def test_ahead_once_in_each_requires_one_per_group(groups, verdict):
    assert ahead_once_in_each(groups) is verdict


@pytest.mark.parametrize(
    ("cost", "rival_costs", "verdict"),
    [
        (1.0, {"a": 2.0, "b": 3.0}, YES),
        (1.0, {"a": 2.0, "b": 1.0}, NO),
        (1.0, {"a": 2.0, "b": None}, UNKNOWN),
        (1.0, {"a": 0.5, "b": None}, NO),
        (None, {"a": 0.5}, UNKNOWN),
        (1.0, {}, UNKNOWN),
    ],
)
def test_lower_than_each_requires_every_rival_cost(cost, rival_costs, verdict):
    assert lower_than_each(cost, rival_costs) is verdict


@pytest.mark.parametrize(
    ("sides", "verdict"),
    [
        (([], []), UNKNOWN),
        (([EQUAL], []), UNKNOWN),
        (([EQUAL], [BEHIND]), YES),
        (([AHEAD], []), NO),
        (([EQUAL], [BEHIND, AHEAD]), NO),
    ],
)
def test_none_ahead_requires_both_sides(sides, verdict):
    assert none_ahead(*sides) is verdict


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [([], UNKNOWN), ([YES, YES], YES), ([YES, UNKNOWN], UNKNOWN), ([UNKNOWN, NO, YES], NO)],
)
def test_all_of_is_decided_by_one_unsupported_verdict(verdicts, verdict):
    assert all_of(verdicts) is verdict
