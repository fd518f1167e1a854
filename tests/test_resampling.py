import itertools

import numpy as np
import pytest
from scipy import stats

from eval.statistics.compare import overall
from eval.statistics.resampling import (
    bootstrap,
    bootstrap_means,
    flip_signs,
    sign_flip_p_values,
)
from eval.statistics.samples import MatchedTask, Panel

EIGHT = [3.0, 1.0, -1.0, 2.0, 4.0, -2.0, 1.0, 5.0]


def panel(tasks, runs=("first", "second"), domains=None):
    """Tasks by name, each (totals, sizes, is_bits)."""
    return Panel(
        runs=runs,
        domains=domains or {name: name for name in tasks},
        tasks={
            name: MatchedTask(totals=np.array(t, float), sizes=np.array(s, float), is_bits=bits)
            for name, (t, s, bits) in tasks.items()
        },
    )


def differing_by(differences):
    """Two runs on one task, the first ahead by these on documents of size 1."""
    return panel(
        {"a": ([differences, np.zeros(len(differences))], np.ones(len(differences)), False)}
    )


def random_panel(seed, n=40):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, 60, n)
    bits = rng.uniform(1, 3, (3, n)) * sizes
    right = rng.integers(0, 2, (3, n))
    tasks = {"bits": (bits, sizes, True), "order": (right, np.ones(n), False)}
    return panel(tasks, runs=("x", "y", "z"))


def p_of(panel, n_resamples=10_000, seed=0):
    pair = (panel.runs[0], panel.runs[1])
    return sign_flip_p_values(panel, [pair], n_resamples=n_resamples, seed=seed)[0]


@pytest.mark.parametrize(
    ("differences", "n_resamples", "p_value"),
    [
        ([1, 1, 1], 10_000, 2 / 8),  # two sign patterns of eight are as extreme
        ([0, 0, 0], 10_000, 1.0),
        ([1, -1, 0], 10_000, 1.0),
        ([1.0] * 60, 99, 1 / 100),  # sampled, never zero
    ],
)
def test_p_values_of_few_documents(differences, n_resamples, p_value):
    assert p_of(differing_by(differences), n_resamples=n_resamples) == p_value


def test_exact_p_value_equals_scipy():
    expected = stats.permutation_test(
        (EIGHT, np.zeros(8)), lambda x, y, axis: np.mean(x - y, axis), vectorized=True,
        permutation_type="samples", n_resamples=np.inf,
    )  # fmt: skip
    assert p_of(differing_by(EIGHT)) == pytest.approx(expected.pvalue, abs=1e-12)


def test_exact_p_value_of_equal_differences_equals_the_sign_test():
    expected = stats.binomtest(9, 11).pvalue
    assert p_of(differing_by([1] * 9 + [-1] * 2 + [0] * 30)) == pytest.approx(expected)


def test_sampled_p_value_is_close_to_the_exact_one():
    # 2 ** 8 patterns, but fewer resamples; three standard errors of a share of 200
    exact, drawn = p_of(differing_by(EIGHT)), p_of(differing_by(EIGHT), n_resamples=200)
    assert drawn != exact
    assert abs(drawn - exact) < 3 * (exact * (1 - exact) / 200) ** 0.5 + 1 / 200


def test_sign_flips_keep_ratios_and_domain_weights():
    tasks = {
        "bits": ([[4, 9, 2], [6, 8, 5]], [4, 5, 3], True),
        "first": ([[1, 0, 1], [0, 0, 1]], [1, 1, 1], False),
        "second": ([[1, 1], [0, 1]], [1, 2], False),
    }
    scores = panel(tasks, domains={"bits": "a", "first": "b", "second": "b"})

    def statistic(swaps):  # by hand: exchange rows, score anew, mean within domains, across
        swaps, means = list(swaps), []
        for totals, sizes, is_bits in tasks.values():
            exchanged = np.array(totals, float)
            for document in range(len(sizes)):
                if swaps.pop():
                    exchanged[:, document] = exchanged[::-1, document]
            ratios = exchanged.sum(axis=1) / sum(sizes)
            means.append(np.subtract(*(2**-ratios if is_bits else ratios)))
        return (means[0] + (means[1] + means[2]) / 2) / 2

    every = [abs(statistic(swaps)) for swaps in itertools.product([0, 1], repeat=8)]
    expected = np.mean(np.array(every) >= every[0] - 1e-12)
    assert 0 < expected < 1
    assert p_of(scores) == pytest.approx(expected)


def test_tasks_share_the_weight_of_their_domain():
    # 1/2 + 1/4 - 1/4; of the sizes 1, 1/2, 1/2, 0 of the patterns, three reach 1/2
    tasks = {name: ([[d], [0]], [1], False) for name, d in {"a": 1, "b": 1, "c": -1}.items()}
    assert p_of(panel(tasks, domains={"a": "x", "b": "y", "c": "y"})) == 0.75


def test_resampled_ties_with_the_observed_difference_count():
    # 21 wins of 40: the exact sign test, within three standard errors of a drawn share
    exact = stats.binomtest(21, 40).pvalue
    drawn = p_of(differing_by([1] * 21 + [-1] * 19), n_resamples=2000)
    assert drawn == pytest.approx(exact, abs=3 * (exact * (1 - exact) / 2000) ** 0.5)


def test_p_values_under_the_null_are_uniform():
    rng = np.random.default_rng(1)
    p_values = []
    for _ in range(300):
        n = 60
        tasks = {"a": (rng.normal(size=(2, n)), np.ones(n), False)}
        p_values.append(p_of(panel(tasks), n_resamples=199))
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(p_values) <= 0.05) < 0.09


def test_p_value_of_a_pair_is_independent_of_other_pairs():
    scores = random_panel(2)
    together = sign_flip_p_values(scores, [("x", "y"), ("z", "x")], n_resamples=500, seed=3)
    alone = sign_flip_p_values(scores, [("z", "x")], n_resamples=500, seed=3)
    assert together[1:] == alone


def test_p_value_is_symmetric():
    scores = random_panel(4)
    forward, backward = sign_flip_p_values(
        scores, [("x", "y"), ("y", "x")], n_resamples=500, seed=3
    )
    assert forward == backward


def test_results_do_not_depend_on_the_block_size(monkeypatch):
    scores = random_panel(5)
    draws = bootstrap(scores, n_resamples=50, seed=1).values
    p_value = p_of(scores, n_resamples=50)
    values = {"a": np.random.default_rng(0).normal(size=(40, 3))}
    sums = flip_signs(values, n_resamples=50, seed=1)
    monkeypatch.setattr("eval.statistics.resampling._BLOCK_ELEMENTS", 40 * 7)
    assert flip_signs(values, n_resamples=50, seed=1) == pytest.approx(sums, abs=1e-5)
    again = bootstrap(scores, n_resamples=50, seed=1).values
    assert again == pytest.approx(draws, abs=1e-12)
    assert p_of(scores, n_resamples=50) == p_value


def test_draws_depend_on_the_seed():
    first, again, other = (
        bootstrap(random_panel(5), n_resamples=50, seed=seed).values for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_bootstrap_means_equal_overall_means_of_draws(monkeypatch):
    scores = random_panel(7)
    draws = overall(bootstrap(scores, n_resamples=50, seed=1))
    monkeypatch.setattr("eval.statistics.resampling._BLOCK_ELEMENTS", 40 * 7)
    blocks = list(bootstrap_means(scores, n_resamples=50, seed=1))
    assert [block.shape for block in blocks] == [(7, 3)] * 7 + [(1, 3)]
    expected = np.stack([draws[run] for run in scores.runs], axis=1)
    assert np.concatenate(blocks) == pytest.approx(expected, abs=1e-12)


def test_signs_are_shared_by_runs_and_drawn_per_document():
    values = {"a": np.array([[1.0, -2.0], [0.0, 0.0]]), "b": np.array([[0.25, 0.25]])}
    first, second = flip_signs(values, n_resamples=400, seed=0)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == {
        (1.25, -1.75), (0.75, -2.25), (-0.75, 2.25), (-1.25, 1.75),
    }  # fmt: skip


def test_draws_do_not_depend_on_other_runs_or_task_order():
    whole = random_panel(6)
    tasks = {
        name: (task.totals[:1], task.sizes, task.is_bits)
        for name, task in reversed(whole.tasks.items())
    }
    alone = bootstrap(panel(tasks, runs=("x",)), n_resamples=20, seed=0)
    together = bootstrap(whole, n_resamples=20, seed=0)
    for task in tasks:
        assert alone.task("x", task) == pytest.approx(together.task("x", task), abs=1e-15)


def test_tasks_are_resampled_independently():
    task = ([[1, 0, 0, 1, 1]], np.ones(5), False)
    table = bootstrap(panel({"a": task, "b": task}, runs=("x",)), n_resamples=20, seed=0)
    assert not np.array_equal(table.task("x", "a"), table.task("x", "b"))


def test_resample_has_the_same_documents_for_every_run():
    # a run that is right exactly where the other is wrong: their scores add up to 1
    right = np.array([1, 0, 0, 1, 1])
    table = bootstrap(
        panel({"a": ([right, 1 - right], np.ones(5), False)}), n_resamples=30, seed=0
    )
    assert table.task("first", "a") + table.task("second", "a") == pytest.approx(np.ones(30))


def test_resampled_ratio_is_a_ratio_of_sums():
    # bits are twice the bytes on every document, so any draw has 2 bits per byte
    sizes = [3, 50, 7]
    task = ([[2 * n for n in sizes], sizes], sizes, True)
    table = bootstrap(panel({"bits": task}), n_resamples=10, seed=0)
    assert table.task("first", "bits") == pytest.approx(np.full(10, 0.25))


def test_bootstrap_error_and_interval_equal_scipy():
    values = np.random.default_rng(3).exponential(size=80)
    resampled = bootstrap(
        panel({"a": ([values], np.ones(80), False)}, runs=("x",)), n_resamples=20_000, seed=0
    )
    draws = resampled.task("x", "a")
    expected = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    assert draws.std(ddof=1) == pytest.approx(expected.standard_error, rel=0.03)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.1 * draws.std())
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.1 * draws.std())


@pytest.mark.parametrize(
    ("call", "least"),
    [
        (lambda p, n: bootstrap(p, n_resamples=n, seed=0), 2),
        (lambda p, n: next(bootstrap_means(p, n_resamples=n, seed=0)), 2),
        (lambda _, n: flip_signs({"a": np.ones((2, 2))}, n_resamples=n, seed=0), 1),
        (p_of, 1),
    ],
)
def test_too_few_resamples_are_refused(call, least):
    with pytest.raises(ValueError, match=f"at least {least}, got {least - 1}"):
        call(differing_by([1, 2]), least - 1)


def test_unknown_run_is_refused():
    with pytest.raises(ValueError, match=r"runs are \['first', 'second'\], got \['sce'\]"):
        sign_flip_p_values(differing_by([1, 2]), [("first", "sce")], n_resamples=9, seed=0)
