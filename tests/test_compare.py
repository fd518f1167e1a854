import itertools
import time

import numpy as np
import pytest

from eval.statistics.compare import Comparison, best_of, compare, overall, rank_bands
from eval.statistics.samples import MatchedTask, Panel
from eval.statistics.scores import Estimate


def panel(*totals_by_task, runs=("ties", "sce")):
    """Tasks t0, t1, ... of domains of their own; per-document scores by run."""
    tasks = {f"t{i}": np.array(totals, float) for i, totals in enumerate(totals_by_task)}
    return Panel(
        runs=runs,
        domains={name: name for name in tasks},
        tasks={
            name: MatchedTask(totals=totals, sizes=np.ones(totals.shape[1]), is_bits=False)
            for name, totals in tasks.items()
        },
    )


def only(found, n_resamples=1000, seed=0):
    pair = (found.runs[0], found.runs[1])
    return compare(found, [pair], n_resamples=n_resamples, seed=seed)[0]


def comparison(first, second, p_holm, difference=0.01):
    return Comparison(
        first=first, second=second, difference=Estimate(value=difference, stderr=0.0),
        low=0.0, high=0.0,
        probability=0.5, p_value=p_holm, p_holm=p_holm,
    )  # fmt: skip


def bands(ranked, different):
    """Rank bands where these pairs differ significantly and no others."""
    pairs = itertools.combinations(ranked, 2)
    found = [comparison(a, b, 0.01 if f"{a}{b}" in different else 0.05) for a, b in pairs]
    return rank_bands(ranked, found)


def test_the_overall_mean_counts_each_domain_once():
    found = Panel(
        runs=("ties",),
        domains={"a": "code", "b": "code", "c": "french"},
        tasks={
            name: MatchedTask(totals=np.array([row]), sizes=np.ones(2), is_bits=False)
            for name, row in {"a": [1.0, 0.0], "b": [0.0, 0.0], "c": [1.0, 1.0]}.items()
        },
    )
    assert overall(found.observed())["ties"] == 0.625  # ((0.5 + 0) / 2 + 1) / 2


def test_a_difference_is_first_minus_second_whatever_the_size_of_the_tasks():
    # task means 1 - 0.5 and 0.25 - 0.5, each counting once
    found = only(panel([[1, 1], [1, 0]], [[1, 0, 0, 0], [1, 1, 0, 0]]))
    assert found.difference.value == pytest.approx((0.5 - 0.25) / 2)


def test_the_bootstrap_error_is_that_of_the_paired_differences():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(2, 100))
    tasks = [np.stack([row, row + rng.normal(scale=0.1, size=100)]) for row in shared]
    errors = [np.std(np.subtract(*task), ddof=1) / 10 for task in tasks]
    found = only(panel(*tasks), n_resamples=5000)
    assert found.difference.stderr == pytest.approx(np.hypot(*errors) / 2, rel=0.04)
    assert found.low < found.difference.value < found.high
    assert found.high - found.low == pytest.approx(3.92 * found.difference.stderr, rel=0.05)


def test_a_run_that_is_never_behind_wins_with_certainty_and_the_other_never():
    ahead = panel([[2.0, 3.0, 4.0], [1.0, 2.0, 3.0]])
    assert only(ahead).probability == 1.0
    assert compare(ahead, [("sce", "ties")], n_resamples=100, seed=0)[0].probability == 0.0


def test_equal_runs_win_half_of_the_time():
    found = only(panel([[0.1, 0.7], [0.1, 0.7]]))
    assert (found.probability, found.p_value, found.low, found.high) == (0.5, 1.0, 0.0, 0.0)


def test_ties_between_resamples_count_half():
    # a draw of 2 documents has the difference -1, 0 or 1 in a quarter, half, a quarter
    found = only(panel([[1.0, 0.0], [0.0, 1.0]]), n_resamples=4000)
    assert found.probability == pytest.approx(0.5, abs=0.03)


def test_the_chance_of_winning_is_the_normal_one_for_many_documents():
    # mean of the differences one standard error above zero: Phi(1) = 0.841
    values = np.random.default_rng(1).normal(size=400)
    values = (values - values.mean()) / values.std() + 1 / 20
    found = only(panel([values, np.zeros(400)]), n_resamples=4000)
    assert found.probability == pytest.approx(0.841, abs=0.02)


def test_p_values_are_corrected_for_the_pairs_compared_together():
    rng = np.random.default_rng(2)
    found = panel(rng.normal(size=(3, 30)) + np.array([[1], [0], [0]]), runs=("a", "b", "c"))
    together = compare(found, [("a", "b"), ("a", "c"), ("b", "c")], n_resamples=2000, seed=0)
    smallest, middle, largest = sorted(together, key=lambda c: c.p_value)
    assert smallest.p_holm == pytest.approx(3 * smallest.p_value)
    assert middle.p_holm == pytest.approx(max(smallest.p_holm, 2 * middle.p_value))
    assert largest.p_holm == pytest.approx(max(middle.p_holm, largest.p_value))


def test_an_interval_covers_the_truth_in_95_of_100_simulated_benchmarks():
    # two tasks of 50 and 80 skewed, correlated documents; the true difference is 0.1
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(300):
        tasks = []
        for n in (50, 80):
            shared, own = rng.exponential(size=n), rng.exponential(size=(2, n))
            tasks.append([shared + own[0] + 0.1, shared + own[1]])
        found = only(panel(*tasks), n_resamples=400, seed=trial)
        covered += found.low <= 0.1 <= found.high
    binomial_error = (0.95 * 0.05 / 300) ** 0.5
    assert abs(covered / 300 - 0.95) < 3 * binomial_error


def test_the_significant_are_as_rare_as_they_should_be_when_nothing_differs():
    # family-wise: among 4 equal runs, some pair is called different in at most 5 % of benchmarks
    rng = np.random.default_rng(6)
    pairs = list(itertools.combinations("abcd", 2))
    alarms = 0
    for trial in range(200):
        found = panel(rng.normal(size=(4, 40)), runs=tuple("abcd"))
        alarms += any(c.differs for c in compare(found, pairs, n_resamples=400, seed=trial))
    assert alarms / 200 < 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_a_pair_has_the_same_numbers_whatever_else_is_compared():
    rng = np.random.default_rng(7)
    totals = rng.integers(0, 2, (3, 40))
    alone = only(panel(totals[:2]))
    together = compare(
        panel(totals, runs=("ties", "sce", "dare")),
        [("ties", "dare"), ("ties", "sce")], n_resamples=1000, seed=0,
    )[1]  # fmt: skip
    assert together.p_value == alone.p_value
    assert together.probability == alone.probability
    assert together.difference.stderr == pytest.approx(alone.difference.stderr)


@pytest.mark.slow
def test_a_hundred_and_twenty_pairs_take_seconds():
    rng = np.random.default_rng(8)
    runs = tuple(f"r{i}" for i in range(16))
    found = panel(*rng.integers(0, 2, (12, 16, 200)), runs=runs)
    start = time.perf_counter()
    pairs = list(itertools.combinations(runs, 2))
    assert len(compare(found, pairs, n_resamples=10_000, seed=0)) == 120
    assert time.perf_counter() - start < 10


def test_too_few_resamples_for_any_pair_to_be_significant_are_refused():
    found = panel([[1, 0], [0, 1]])
    with pytest.raises(ValueError, match=r"at least 40 for 2 pairs, .* below 0\.05; got 39"):
        compare(found, [("ties", "sce"), ("sce", "ties")], n_resamples=39, seed=0)
    assert len(compare(found, [("ties", "sce"), ("sce", "ties")], n_resamples=40, seed=0)) == 2


def test_the_best_run_has_the_highest_overall_mean_and_the_first_of_equals_is_taken():
    found = panel([[0, 0], [1, 0], [0, 1]], runs=("ties", "sce", "dare"))
    assert best_of(found, ["ties", "dare", "sce"]) == "dare"


def test_runs_within_the_noise_of_the_best_share_its_band():
    assert bands("abc", {"ac"}) == {"a": 1, "b": 1, "c": 2}


def test_a_band_is_measured_from_its_best_run_not_from_its_last():
    # b is not told apart from c, but c is from a, who starts the band
    assert bands("abcd", {"ac", "ad"}) == {"a": 1, "b": 1, "c": 2, "d": 2}


def test_a_noisy_run_joins_a_band_past_one_that_does_not():
    assert bands("abc", {"ab"}) == {"a": 1, "b": 2, "c": 1}


def test_runs_that_all_differ_have_bands_of_their_own():
    assert bands("abc", {"ab", "ac", "bc"}) == {"a": 1, "b": 2, "c": 3}


def test_a_corrected_p_value_at_the_level_is_no_difference():
    assert not comparison("a", "b", 0.05).differs
    assert comparison("a", "b", 0.0499).differs


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_shown_as_no_difference_is_not_called_one_however_certain(sign):
    assert not comparison("a", "b", 0.0001, difference=4e-5 * sign).differs
    assert comparison("a", "b", 0.0001, difference=6e-5 * sign).differs


def test_every_run_is_significantly_behind_the_starters_of_the_bands_above():
    rng = np.random.default_rng(9)
    for _ in range(50):
        different = {
            f"{a}{b}" for a, b in itertools.combinations("abcdef", 2) if rng.random() < 0.5
        }
        found = bands("abcdef", different)
        starters = {band: min(r for r in found if found[r] == band) for band in found.values()}
        for run, band in found.items():
            assert all(f"{starters[above]}{run}" in different for above in range(1, band))


def test_bands_need_every_comparison():
    with pytest.raises(ValueError, match="need a comparison of a and b, got none"):
        rank_bands("ab", [])
    assert rank_bands([], []) == {}
