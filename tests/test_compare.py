import itertools
import time

import numpy as np
import pytest

from eval.statistics.compare import (
    LEVEL,
    CorrectedComparison,
    best_of,
    compare,
    correct,
    is_close,
    overall,
    resamples_for,
    win_probabilities,
)
from eval.statistics.samples import MatchedTask, Panel
from eval.statistics.scores import Estimate
from tests.made_up_runs import panel


def compare_first_two(scores, n_resamples=1000, seed=0):
    pair = (scores.runs[0], scores.runs[1])
    return compare(scores, [pair], n_resamples=n_resamples, seed=seed)[0]


def comparison(first, second, p_holm, difference=0.01):
    return CorrectedComparison(
        first=first, second=second, difference=Estimate(value=difference, stderr=0.0),
        low=0.0, high=0.0,
        probability=0.5, p_value=p_holm, p_holm=p_holm,
    )  # fmt: skip


def test_overall_mean_weighs_domains_equally():
    scores = Panel(
        runs=("ties",),
        domains={"a": "code", "b": "code", "c": "french"},
        tasks={
            name: MatchedTask(totals=np.array([row]), sizes=np.ones(2), is_bits=False)
            for name, row in {"a": [1.0, 0.0], "b": [0.0, 0.0], "c": [1.0, 1.0]}.items()
        },
    )
    assert overall(scores.observed())["ties"] == 0.625  # ((0.5 + 0) / 2 + 1) / 2


def test_difference_is_first_minus_second_with_equal_task_weights():
    # task means 1 - 0.5 and 0.25 - 0.5, each counting once
    result = compare_first_two(panel([[1, 1], [1, 0]], [[1, 0, 0, 0], [1, 1, 0, 0]]))
    assert result.difference.value == pytest.approx((0.5 - 0.25) / 2)


def test_bootstrap_error_is_of_paired_differences():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(2, 100))
    tasks = [np.stack([row, row + rng.normal(scale=0.1, size=100)]) for row in shared]
    errors = [np.std(np.subtract(*task), ddof=1) / 10 for task in tasks]
    result = compare_first_two(panel(*tasks), n_resamples=5000)
    assert result.difference.stderr == pytest.approx(np.hypot(*errors) / 2, rel=0.04)
    assert result.low < result.difference.value < result.high
    assert result.high - result.low == pytest.approx(3.92 * result.difference.stderr, rel=0.05)


def test_dominating_run_has_win_probability_one():
    ahead = panel([[2.0, 3.0, 4.0], [1.0, 2.0, 3.0]])
    assert compare_first_two(ahead).probability == 1.0
    assert compare(ahead, [("sce", "ties")], n_resamples=100, seed=0)[0].probability == 0.0


def test_equal_runs_have_win_probability_one_half():
    result = compare_first_two(panel([[0.1, 0.7], [0.1, 0.7]]))
    assert (result.probability, result.p_value, result.low, result.high) == (0.5, 1.0, 0.0, 0.0)


def test_tied_resamples_count_half():
    # a draw of 2 documents has the difference -1, 0 or 1 in a quarter, half, a quarter
    result = compare_first_two(panel([[1.0, 0.0], [0.0, 1.0]]), n_resamples=4000)
    assert result.probability == pytest.approx(0.5, abs=0.03)


def test_win_probability_is_normal_for_many_documents():
    # mean of the differences one standard error above zero: Phi(1) = 0.841
    values = np.random.default_rng(1).normal(size=400)
    values = (values - values.mean()) / values.std() + 1 / 20
    result = compare_first_two(panel([values, np.zeros(400)]), n_resamples=4000)
    assert result.probability == pytest.approx(0.841, abs=0.02)


def test_p_values_are_holm_corrected_over_compared_pairs():
    rng = np.random.default_rng(2)
    scores = panel(rng.normal(size=(3, 30)) + np.array([[1], [0], [0]]), runs=("a", "b", "c"))
    raw = compare(scores, [("a", "b"), ("a", "c"), ("b", "c")], n_resamples=2000, seed=0)
    together = correct(raw)
    assert [c.p_value for c in together] == [c.p_value for c in raw]
    assert [(c.first, c.second, c.low) for c in together] == [
        (c.first, c.second, c.low) for c in raw
    ]
    smallest, middle, largest = sorted(together, key=lambda c: c.p_value)
    assert smallest.p_holm == pytest.approx(3 * smallest.p_value)
    assert middle.p_holm == pytest.approx(max(smallest.p_holm, 2 * middle.p_value))
    assert largest.p_holm == pytest.approx(max(middle.p_holm, largest.p_value))


def test_confidence_interval_has_95_percent_coverage():
    # two tasks of 50 and 80 skewed, correlated documents; the true difference is 0.1
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(300):
        tasks = []
        for n in (50, 80):
            shared, own = rng.exponential(size=n), rng.exponential(size=(2, n))
            tasks.append([shared + own[0] + 0.1, shared + own[1]])
        result = compare_first_two(panel(*tasks), n_resamples=400, seed=trial)
        covered += result.low <= 0.1 <= result.high
    binomial_error = (0.95 * 0.05 / 300) ** 0.5
    assert abs(covered / 300 - 0.95) < 3 * binomial_error


def test_family_wise_error_rate_is_at_most_5_percent():
    # family-wise: among 4 equal runs a pair is called different in at most 5 % of benchmarks
    rng = np.random.default_rng(6)
    pairs = list(itertools.combinations("abcd", 2))
    alarms = 0
    for trial in range(200):
        scores = panel(rng.normal(size=(4, 40)), runs=tuple("abcd"))
        compared = compare(scores, pairs, n_resamples=400, seed=trial)
        alarms += any(c.differs for c in correct(compared))
    assert alarms / 200 < 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_comparison_of_a_pair_is_independent_of_other_pairs():
    rng = np.random.default_rng(7)
    totals = rng.integers(0, 2, (3, 40))
    alone = compare_first_two(panel(totals[:2]))
    together = compare(
        panel(totals, runs=("ties", "sce", "dare")),
        [("ties", "dare"), ("ties", "sce")], n_resamples=1000, seed=0,
    )[1]  # fmt: skip
    assert together.p_value == alone.p_value
    assert together.probability == alone.probability
    assert together.difference.stderr == pytest.approx(alone.difference.stderr)


@pytest.mark.slow
def test_comparing_120_pairs_takes_under_10_seconds():
    rng = np.random.default_rng(8)
    runs = tuple(f"r{i}" for i in range(16))
    scores = panel(*rng.integers(0, 2, (12, 16, 200)), runs=runs)
    start = time.perf_counter()
    pairs = list(itertools.combinations(runs, 2))
    assert len(compare(scores, pairs, n_resamples=10_000, seed=0)) == 120
    assert time.perf_counter() - start < 10


def test_resample_count_allows_significance_after_correction():
    assert [resamples_for(n) for n in (0, 1, 499, 500, 2000)] == [10_000] * 3 + [10_001, 40_001]
    n = resamples_for(2000)
    assert 2000 / (n + 1) < LEVEL


def test_win_probabilities_equal_pairwise_comparisons():
    rng = np.random.default_rng(11)
    scores = panel(rng.integers(0, 2, (4, 40)), rng.normal(size=(4, 30)), runs=tuple("abcd"))
    chances = win_probabilities(scores, ["c", "a"], ["b", "d"], n_resamples=500, seed=3)
    pairs = [("c", "b"), ("c", "d"), ("a", "b"), ("a", "d")]
    compared = compare(scores, pairs, n_resamples=500, seed=3)
    assert [(run, rival) for run, row in chances.items() for rival in row] == pairs
    assert [chances[a][b] for a, b in pairs] == [c.probability for c in compared]


def test_win_probabilities_do_not_depend_on_the_block_size(monkeypatch):
    scores = panel([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]], runs=tuple("abc"))
    whole = win_probabilities(scores, ["a", "b"], ["c"], n_resamples=101, seed=0)
    monkeypatch.setattr("eval.statistics.resampling._BLOCK_ELEMENTS", 4 * 7)
    assert win_probabilities(scores, ["a", "b"], ["c"], n_resamples=101, seed=0) == whole
    assert 0.5 < whole["a"]["c"] < 1


def test_win_probabilities_without_rivals_are_empty():
    scores = panel([[1, 0], [0, 1]])
    assert win_probabilities(scores, ["ties"], [], n_resamples=10, seed=0) == {"ties": {}}


def test_unknown_rival_is_refused():
    scores = panel([[1, 0], [0, 1]])
    with pytest.raises(ValueError, match=r"runs are \['sce', 'ties'\], got \['dare'\]"):
        win_probabilities(scores, ["ties"], ["dare"], n_resamples=10, seed=0)


def test_best_run_is_the_first_with_the_highest_overall_mean():
    scores = panel([[0, 0], [1, 0], [0, 1]], runs=("ties", "sce", "dare"))
    assert best_of(scores, ["ties", "dare", "sce"]) == "dare"


def test_corrected_p_value_must_be_below_the_level():
    assert not comparison("a", "b", 0.05).differs
    assert comparison("a", "b", 0.0499).differs


@pytest.mark.parametrize("sign", [1, -1])
def test_differences_below_display_precision_do_not_differ(sign):
    assert not comparison("a", "b", 0.0001, difference=4e-5 * sign).differs
    assert comparison("a", "b", 0.0001, difference=6e-5 * sign).differs


@pytest.mark.parametrize(
    ("p_value", "corrected", "n_resamples", "close"),
    [
        (0.01, 0.042, 10_000, True),  # 0.001 is one standard error, times 4.2
        (0.01, 0.042, 10_000_000, False),
        (0.047, 0.047, 10_000, True),
        (0.03, 0.03, 10_000, False),
        (0.2, 0.2, 10_000, False),
        (1.0, 1.0, 10_000, False),
    ],
)
def test_a_p_value_is_close_if_another_draw_could_cross_the_level(
    p_value, corrected, n_resamples, close
):
    assert is_close(p_value, corrected, n_resamples) == close
