"""Rank bands: step-down max-T p-values, and the groups they give."""

import itertools
import math

import numpy as np
import pytest

from eval.statistics.bands import (
    contributions,
    group_by_leader,
    pair_p_values,
    pair_statistics,
    rank_bands,
)
from eval.statistics.compare import overall
from eval.statistics.resampling import sign_flip_p_values
from eval.statistics.samples import MatchedTask, Panel
from scripts.benchmark.rank_bands import SCENARIOS, Scenario, clusters, simulate
from tests.made_up_runs import panel


def differing(pairs, runs):
    """Matrix of these significant differences, such as ``{"ac"}``."""
    places = {run: i for i, run in enumerate(runs)}
    differs = np.zeros((len(runs), len(runs)), dtype=bool)
    for first, second in pairs:
        differs[places[first], places[second]] = differs[places[second], places[first]] = True
    return differs


@pytest.mark.parametrize(
    ("runs", "pairs", "bands"),
    [
        ("", set(), []),
        ("a", set(), [1]),
        ("abc", {"ac"}, [1, 1, 2]),
        ("abcd", {"ac", "ad"}, [1, 1, 2, 2]),  # from the leader, not from the last of its band
        ("abc", {"ab"}, [1, 2, 1]),  # a noisy run joins past one that does not
        ("abc", {"ab", "ac", "bc"}, [1, 2, 3]),
    ],
)
def test_bands_group_runs_that_do_not_differ_from_their_leader(runs, pairs, bands):
    assert group_by_leader(differing(pairs, runs)) == bands


def test_runs_differ_from_the_leaders_of_higher_bands():
    rng = np.random.default_rng(9)
    for _ in range(50):
        upper = np.triu(rng.random((6, 6)) < 0.5, 1)
        differs = upper | upper.T
        bands = group_by_leader(differs)
        leaders = {band: bands.index(band) for band in bands}
        for run, band in enumerate(bands):
            assert all(differs[leaders[above], run] for above in range(1, band))


def test_contributions_sum_to_the_overall_means():
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 60, 30).astype(float)
    tasks = {
        "bits": MatchedTask(
            totals=rng.uniform(1, 3, (3, 30)) * sizes, sizes=sizes, is_bits=True
        ),
        "order": MatchedTask(
            totals=rng.integers(0, 2, (3, 20)).astype(float), sizes=np.ones(20), is_bits=False
        ),
        "answer": MatchedTask(
            totals=rng.integers(0, 2, (3, 20)).astype(float), sizes=np.ones(20), is_bits=False
        ),
    }
    domains = {"bits": "code", "order": "code", "answer": "french"}
    scores = Panel(runs=("a", "b", "c"), domains=domains, tasks=tasks)
    means = overall(scores.observed())
    parts = contributions(scores, ["c", "a"])
    assert {name: part.shape for name, part in parts.items()} == {
        "bits": (30, 2), "order": (20, 2), "answer": (20, 2),
    }  # fmt: skip
    total = sum(part.sum(axis=0) for part in parts.values())
    assert total == pytest.approx([means["c"], means["a"]])


def test_byte_likelihood_contributions_are_linearised():
    # bits per byte (1 + 3) / 2 = 2, score 1/4, slope -ln 2 / 4: (1/4 -+ slope) / 2
    parts = contributions(panel([[1.0, 3.0]], runs="a", is_bits=True), ["a"])
    slope = math.log(2) / 4
    assert parts["t0"][:, 0] == pytest.approx([(0.25 + slope) / 2, (0.25 - slope) / 2])


def test_pair_statistic_is_the_sum_over_the_root_of_squared_differences():
    # differences 1, 1, 0, 1: 3 / sqrt(3); third run as the first
    values = np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    differences, scales = pair_statistics(values)
    assert differences[0].tolist() == [0.0, 3.0, 0.0]
    assert (differences * scales)[0] == pytest.approx([0.0, math.sqrt(3), 0.0])


@pytest.mark.parametrize("is_bits", [False, True])
def test_p_value_of_two_runs_equals_the_sign_flip_test(is_bits):
    rng = np.random.default_rng(3)
    values = rng.uniform(1, 2, (2, 100)) + np.array([[0.08], [0.0]])
    scores = panel(values, runs="ab", is_bits=is_bits)
    p_value = pair_p_values(scores, "ab", n_resamples=5000, seed=0)[0, 1]
    (expected,) = sign_flip_p_values(scores, [("a", "b")], n_resamples=5000, seed=0)
    assert 0.01 < expected < 0.2
    # the same signs: equal for means, the delta method for byte likelihood
    assert p_value == pytest.approx(expected, abs=0.002 if is_bits else 1e-9)


def test_adjusted_p_values_equal_step_down_max_t():
    # each statistic against the maximum over it and all smaller ones, then made monotone
    rng = np.random.default_rng(4)
    values = rng.normal(size=(4, 60)) + np.array([[0.5], [0.3], [0.0], [0.0]])
    scores = panel(values, runs="abcd")
    p_values = pair_p_values(scores, "abcd", n_resamples=200, seed=5)
    signs = 1 - 2 * np.random.default_rng([5, *b"t0"]).integers(0, 2, (200, 60))
    pairs = list(itertools.combinations(range(4), 2))
    rows = np.array([values[i] - values[j] for i, j in pairs])
    scale = np.sqrt((rows**2).sum(axis=1))
    observed = np.abs(rows.sum(axis=1)) / scale
    flipped = np.abs(signs @ rows.T) / scale
    least = 0.0
    for k in np.argsort(-observed):
        below = flipped[:, observed <= observed[k]].max(axis=1)
        least = max(least, (1 + np.sum(below >= observed[k])) / 201)
        assert p_values[pairs[k]] == pytest.approx(least)
    assert np.array_equal(p_values, p_values.T)
    assert np.diag(p_values).tolist() == [1, 1, 1, 1]


def test_p_value_of_few_differing_documents_is_at_least_exact():
    # 5 wins of 5: two patterns in 32 reach it; in a family, other pairs reach it as well
    rng = np.random.default_rng(6)
    base = rng.integers(0, 2, 200).astype(float)
    ahead = base.copy()
    ahead[np.flatnonzero(base == 0)[:5]] = 1
    noise = rng.integers(0, 2, (2, 200)).astype(float)
    alone = panel([ahead, base], runs="ab")
    assert pair_p_values(alone, "ab", n_resamples=4000, seed=0)[0, 1] == pytest.approx(
        2 / 32, abs=0.012
    )
    family = panel([ahead, base, *noise], runs="abcd")
    assert pair_p_values(family, "abcd", n_resamples=4000, seed=0)[0, 1] > 0.1


@pytest.mark.parametrize(("shift", "bands"), [(4e-5, [1, 1]), (6e-5, [1, 2])])
def test_differences_below_display_precision_share_a_band(shift, bands):
    rng = np.random.default_rng(7)
    base = rng.uniform(size=100)
    scores = panel([base + shift, base], runs="ab")
    assert list(rank_bands(scores, "ab", n_resamples=500, seed=0).values()) == bands


def test_near_copies_do_not_reduce_the_power_of_other_pairs():
    # a hundred copies that differ by rounding only: one family with two pairs that matter
    rng = np.random.default_rng(8)
    base = rng.uniform(size=200)
    copies = base + 1e-9 * rng.normal(size=(30, 200))
    ahead = base + rng.normal(0.05, 0.2, 200)
    few = panel([ahead, base], runs=["ahead", "base"])
    many = panel([ahead, *copies], runs=["ahead", *map(str, range(30))])
    alone = pair_p_values(few, few.runs, n_resamples=2000, seed=0)[0, 1]
    together = pair_p_values(many, many.runs, n_resamples=2000, seed=0)
    assert together[0, 1:] == pytest.approx(np.full(30, alone), abs=1e-3)
    assert together[1, 2] == 1.0


def test_equal_runs_share_a_band():
    scores = panel([[1, 0, 1], [1, 0, 1], [1, 0, 1]], runs="abc")
    assert rank_bands(scores, "abc", n_resamples=50, seed=0) == {"a": 1, "b": 1, "c": 1}


def test_bands_follow_the_ranking_and_ignore_unranked_runs():
    rng = np.random.default_rng(10)
    values = rng.normal(scale=0.1, size=(4, 100)) + np.array([[0.0], [5.0], [1.0], [0.0]])
    scores = panel(values, runs=["worst", "pivot", "best", "next"])
    ranked = ["best", "next", "worst"]
    bands = rank_bands(scores, ranked, n_resamples=500, seed=0)
    assert list(bands.items()) == [("best", 1), ("next", 2), ("worst", 2)]


@pytest.mark.parametrize(("ranked", "bands"), [([], {}), (["b"], {"b": 1})])
def test_fewer_than_two_runs_have_at_most_one_band(ranked, bands):
    scores = panel([[0, 1], [1, 1]], runs="ab")
    assert rank_bands(scores, ranked, n_resamples=50, seed=0) == bands


def test_unknown_run_is_refused():
    scores = panel([[0, 1], [1, 1]], runs="ab")
    with pytest.raises(ValueError, match=r"runs are \['a', 'b'\], got \['sce'\]"):
        rank_bands(scores, ["a", "sce"], n_resamples=50, seed=0)


def test_too_few_resamples_are_refused():
    scores = panel([[0, 1], [1, 1]], runs="ab")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        rank_bands(scores, "ab", n_resamples=0, seed=0)


def max_error_rate(n_panels):
    """Five per cent and three standard errors of the share."""
    return 0.05 + 3 * math.sqrt(0.05 * 0.95 / n_panels)


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(name="equal", lifts=clusters(8), copies=3),
        Scenario(name="clusters", lifts=clusters(3, 3, 2), copies=2),
    ],
    ids=lambda scenario: scenario.name,
)
def test_family_wise_error_is_controlled_in_few_simulations(scenario):
    rates = simulate(scenario, n_panels=60, seed=1)["step-down maxT"]
    assert rates.false_band <= rates.false_pair <= max_error_rate(60)


def test_holm_over_the_leader_alone_exceeds_the_error_level():
    equal = Scenario(name="equal", lifts=clusters(8))
    assert simulate(equal, n_panels=100, seed=0)["Holm, leader only"].false_band > 0.09


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_family_wise_error_is_controlled_and_power_exceeds_holm(scenario):
    rates = simulate(scenario, n_panels=500, seed=2)
    bands, holm = rates["step-down maxT"], rates["Holm, all pairs"]
    assert bands.false_band <= bands.false_pair <= max_error_rate(500)
    if not math.isnan(holm.power):
        assert bands.power > holm.power


def test_bands_close_to_the_level_are_drawn_with_more_sign_patterns(monkeypatch):
    drawn = []

    def p_values(_panel, runs, *, n_resamples, **_):
        drawn.append(n_resamples)
        p = 0.049 if n_resamples == 10_000 else 0.051
        return np.where(np.eye(len(runs)), 1.0, p)

    monkeypatch.setattr("eval.statistics.bands.pair_p_values", p_values)
    assert rank_bands(None, "ab", n_resamples=10_000, seed=0) == {"a": 1, "b": 1}
    assert drawn == [10_000, 100_000]
    monkeypatch.setattr(
        "eval.statistics.bands.pair_p_values", lambda *_, **__: np.where(np.eye(2), 1.0, 0.01)
    )
    assert rank_bands(None, "ab", n_resamples=10_000, seed=0) == {"a": 1, "b": 2}
