"""Ranking scores, and exact thresholds against sorting: cached, sampled and counted."""

import numpy as np
import pytest
import torch

from seme.ranking_scores import RankingScores, map_all
from seme.streaming import CPU_BLOCK, ThreadPool
from seme.topk_threshold import _LINE, _MIN_COUNTED, _STEP, find_thresholds
from tests.in_memory import models_of


def source_values(_pivot, sources):
    return torch.stack(sources)


def scores_of(*tensors, **how):
    """Two rows of ranking scores per tensor: its values, and their negated halves."""
    named = {str(i): values for i, values in enumerate(tensors)}
    pivot = {name: torch.zeros_like(values) for name, values in named.items()}
    halves = {name: values / -2 for name, values in named.items()}
    models = models_of(pivot, named, halves, **how)
    return [RankingScores(models.open(name), source_values, 2) for name in named]


@pytest.mark.parametrize("cache", [0, 2**30])
@pytest.mark.parametrize("rank", [1, 2, 3, 6])
def test_threshold_is_the_kth_largest_magnitude_per_row(rank, cache):
    # magnitudes 5, 3, 3, 2, 1, 0 in the first row, half of each in the second
    scores = scores_of(torch.tensor([3.0, -5.0, 0.0, 1.0, -3.0, 2.0]), cache_bytes=cache)
    expected = {1: (5.0, 0, 1), 2: (3.0, 1, 2), 3: (3.0, 1, 2), 6: (0.0, 5, 1)}[rank]
    ((first, second),) = find_thresholds(scores, [rank], 6)
    assert (first.value, first.n_above, first.n_equal) == expected
    assert (second.value, second.n_above, second.n_equal) == (expected[0] / 2, *expected[1:])


def test_threshold_of_rank_zero_is_infinite():
    ((threshold, _),) = find_thresholds(scores_of(torch.ones(3)), [0], 3)
    assert (threshold.value, threshold.n_above, threshold.n_equal) == (float("inf"), 0, 0)


@pytest.mark.parametrize("share", [0.001, 0.2, 0.9, 1.0])
def test_thresholds_of_sampled_tensors_equal_sorting(share):
    rng = torch.Generator().manual_seed(0)
    tensors = [torch.randn(n, generator=rng) for n in (9 * CPU_BLOCK, 5, 8 * CPU_BLOCK + 7)]
    falling = np.sort(torch.cat(tensors).abs().numpy())[::-1]
    rank = round(share * len(falling))
    (found,) = find_thresholds(scores_of(*tensors), [rank], len(falling))
    for threshold, factor in zip(found, (1.0, 0.5), strict=True):
        value = falling[rank - 1]
        assert threshold.value == value * factor
        assert threshold.n_above == np.count_nonzero(falling > value)
        assert threshold.n_equal == np.count_nonzero(falling == value)


def in_bfloat16(n):
    """Changes of bfloat16 weights: few different values, many of each."""
    rng = torch.Generator().manual_seed(1)
    weights = torch.randn(n, generator=rng)
    changed = weights + 0.01 * torch.randn(n, generator=rng)
    return changed.bfloat16().float() - weights.bfloat16().float()


def misleading(n):
    """Zero wherever the sample looks."""
    values = torch.randn(n, generator=torch.Generator().manual_seed(2))
    return values * (torch.arange(n) % CPU_BLOCK % (_LINE * _STEP) >= _LINE)


N_COUNTED = 2 * CPU_BLOCK + 11
"""Elements of a tensor whose cached scores are counted."""


@pytest.mark.parametrize("share", [1e-5, 0.01, 0.11, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("make", [in_bfloat16, misleading])
def test_thresholds_of_cached_scores_equal_sorting(share, make, monkeypatch):
    assert N_COUNTED >= _MIN_COUNTED
    values = make(N_COUNTED)
    if make is in_bfloat16 and 0.001 < share < 1:
        monkeypatch.setattr("seme.topk_threshold._partition", None)  # the sample must do
    falling = np.sort(values.abs().numpy())[::-1]
    rank = round(share * len(falling))
    scores = scores_of(values, cache_bytes=2**30)
    (found,) = find_thresholds(scores, [rank], len(falling))
    for threshold, factor in zip(found, (1.0, 0.5), strict=True):
        value = falling[rank - 1]
        assert threshold.value == value * factor
        assert threshold.n_above == np.count_nonzero(falling > value)
        assert threshold.n_equal == np.count_nonzero(falling == value)


@pytest.mark.parametrize("cache", [0, 2**30])
@pytest.mark.parametrize("n", [50, N_COUNTED, 17 * CPU_BLOCK])
def test_several_ranks_are_found_as_each_by_itself(n, cache):
    scores = scores_of(in_bfloat16(n), cache_bytes=cache)
    ranks = [n // 5, 0, n // 100, n, n // 5]
    together = find_thresholds(scores, ranks, n)
    for rank, thresholds in zip(ranks, together, strict=True):
        (alone,) = find_thresholds(scores, [rank], n)
        for one, other in zip(thresholds, alone, strict=True):
            assert (one.bits, one.n_above, one.n_equal) == (
                other.bits,
                other.n_above,
                other.n_equal,
            )


def test_ties_of_cached_scores_are_known_per_block():
    scores = scores_of(in_bfloat16(N_COUNTED), cache_bytes=2**30)
    for rank in (N_COUNTED // 5, N_COUNTED // 100):
        (found,) = find_thresholds(scores, [rank], N_COUNTED)
        for row, threshold in enumerate(found):
            tied = scores[0].map(
                lambda rows, _, row=row, value=threshold.value: int(
                    (rows[row].abs() == value).sum()
                )
            )
            assert threshold.n_equal_per_block == [tied]


@pytest.mark.parametrize("cache", [0, 2**30])
@pytest.mark.parametrize("small", [0, 100, 2**24])
def test_map_all_equals_mapping_each_tensor(cache, small, monkeypatch):
    monkeypatch.setattr("seme.streaming.SMALL", small)
    tensors = {"a": torch.arange(3.0), "b": torch.zeros(0), "c": torch.arange(CPU_BLOCK + 2.0)}
    pivot = {name: torch.zeros_like(values) for name, values in tensors.items()}

    def summary(values, start):
        return start, values.shape[1], float(values.sum())

    with ThreadPool(3) as threads:
        models = models_of(pivot, tensors, cache_bytes=cache, threads=threads)
        scores = [RankingScores(models.open(name), source_values, 1) for name in tensors]
        summaries = map_all(scores, summary)
        assert summaries == [one.map(summary) for one in scores]
    assert [[place[:2] for place in blocks] for blocks in summaries] == [
        [(0, 3)],
        [],
        [(0, CPU_BLOCK), (CPU_BLOCK, 2)],
    ]


def test_tensor_is_opened_once_per_pass():
    values = torch.arange(40.0 * CPU_BLOCK)
    models = models_of({"w": values, "v": values[:9]}, {"w": values, "v": values[:9]})
    scores = [
        RankingScores(models.open(n, kept=False), source_values, 1, cache=False) for n in "wv"
    ]
    map_all(scores, lambda values, _: values.shape)
    assert (models.pivot.n_opened, models.sources[0].n_opened) == (2, 2)


def test_scores_that_exceed_the_cache_are_not_cached():
    models = models_of({"w": torch.zeros(100)}, {"w": torch.ones(100)}, cache_bytes=999)
    assert not RankingScores(models.open("w"), source_values, 2).cached
    assert RankingScores(models.open("w"), source_values, 1).cached
    assert not RankingScores(models.open("w"), source_values, 1, cache=False).cached
