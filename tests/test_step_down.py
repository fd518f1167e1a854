"""Step-down maxT p-values: equal, to the last bit, to the running maximum over all pairs."""

import numpy as np
import pytest

from eval.statistics import step_down
from eval.statistics.bands import pair_statistics
from eval.statistics.step_down import step_down_p_values

NEGLIGIBLE = 5e-5


def by_running_maximum(sums, differences, scales):
    """Each pair against the maximum over it and smaller statistics, pair by pair."""
    n_runs, n_resamples = sums.shape
    pairs = np.triu_indices(n_runs, 1)
    observed = np.where(differences < NEGLIGIBLE, 0.0, differences * scales)[pairs]
    order = np.argsort(observed)
    largest, reached = np.zeros(n_resamples, dtype=np.float32), []
    for k in order:
        i, j = pairs[0][k], pairs[1][k]
        swing, scale = np.abs(sums[i] - sums[j]), float(scales[i, j])
        if scale * NEGLIGIBLE > 1:
            swing[swing < NEGLIGIBLE] = 0
        largest = np.maximum(largest, swing * scale)
        reached.append(np.count_nonzero(largest >= float(observed[k]) * (1 - 1e-4)))
    p_values, least = np.ones((n_runs, n_runs)), 0
    for k, count in zip(order[::-1], reached[::-1], strict=True):
        least = max(least, count)
        i, j = pairs[0][k], pairs[1][k]
        p_values[i, j] = p_values[j, i] = (least + 1) / (n_resamples + 1)
    return p_values


def made_up(n_runs, seed, *, lift=0.0, n_documents=60, n_resamples=700):
    """Sums, differences and scales of runs; the last three are a run, its copy, a near copy."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n_documents, n_runs)) + lift * np.arange(n_runs)
    values[:, -2] = values[:, -1]
    values[:, -3] = values[:, -1] + 1e-9 * rng.normal(size=n_documents)
    values /= n_documents
    signs = 1 - 2 * rng.integers(0, 2, (n_resamples, n_documents))
    centred = (values - values.mean(axis=1, keepdims=True)).astype(np.float32)
    return (signs.astype(np.float32) @ centred).T.copy(), *pair_statistics(values)


@pytest.mark.parametrize("lift", [0.0, 0.02, 0.1, 1.0])
@pytest.mark.parametrize("n_runs", [3, 8, 25])
def test_p_values_are_those_of_the_running_maximum(n_runs, lift):
    sums, differences, scales = made_up(n_runs, seed=n_runs, lift=lift)
    expected = by_running_maximum(sums, differences, scales)
    p_values = step_down_p_values(sums, differences, scales, negligible=NEGLIGIBLE)
    assert np.array_equal(p_values, expected)
    for up_to in (0.05, 0.2):
        some = step_down_p_values(sums, differences, scales, negligible=NEGLIGIBLE, up_to=up_to)
        assert np.array_equal(some, np.where(expected > up_to, 1.0, expected))


def test_p_values_are_those_of_the_running_maximum_where_some_differ():
    sums, differences, scales = made_up(40, seed=1, lift=0.03, n_resamples=5000)
    expected = by_running_maximum(sums, differences, scales)
    assert 100 < np.count_nonzero(expected <= 0.05) < 1400
    assert np.count_nonzero((expected > 0.02) & (expected < 0.05)) > 4
    p_values = step_down_p_values(sums, differences, scales, negligible=NEGLIGIBLE, up_to=0.05)
    assert np.array_equal(p_values, np.where(expected > 0.05, 1.0, expected))


def test_few_statistics_at_once_give_the_same(monkeypatch):
    sums, differences, scales = made_up(12, seed=2, lift=0.05)
    whole = step_down_p_values(sums, differences, scales, negligible=NEGLIGIBLE)
    monkeypatch.setattr(step_down, "_MOST_GATHERED", 1)
    monkeypatch.setattr(step_down, "_BLOCK", 7)
    parts = step_down_p_values(sums, differences, scales, negligible=NEGLIGIBLE)
    assert np.array_equal(parts, whole)


def test_equal_runs_and_a_run_alone_have_p_one():
    sums = np.ones((3, 10), dtype=np.float32)
    nothing = np.zeros((3, 3))
    for up_to in (0.05, 1.0):
        p_values = step_down_p_values(
            sums, nothing, nothing, negligible=NEGLIGIBLE, up_to=up_to
        )
        assert (p_values == 1).all()
    alone = step_down_p_values(sums[:1], nothing[:1, :1], nothing[:1, :1], negligible=1.0)
    assert alone.tolist() == [[1.0]]


def test_an_overwhelming_difference_has_the_least_p_value():
    # 20 documents, all one way: no other pattern of 50 reaches the sum
    values = np.stack([np.ones(20), np.zeros(20)], axis=1) / 20
    signs = 1 - 2 * np.random.default_rng(0).integers(0, 2, (50, 20))
    centred = values - values.mean(axis=1, keepdims=True)
    sums = (signs @ centred).T.astype(np.float32)
    p_values = step_down_p_values(sums, *pair_statistics(values), negligible=NEGLIGIBLE)
    assert p_values[0, 1] == 1 / 51
