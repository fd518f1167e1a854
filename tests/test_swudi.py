"""SWUDI: a worked example, the paper's filter in float64, gradient flow, limits, edges."""

import math
from functools import partial

import pytest
import torch

from baselines.swudi import merge
from baselines.wudi import merge as wudi
from tests.in_memory import merge_one, random_models

swudi = partial(merge_one, merge, time=300, rank_share=0.85, lam=1.0, vocabulary="mean")


def operators(pivot, sources):
    """The sum S, C and D of the paper."""
    tv = [source.double() - pivot.double() for source in sources]
    norms = [matrix.square().sum() for matrix in tv]
    c = sum(matrix.T @ matrix / n for matrix, n in zip(tv, norms, strict=True))
    d = sum(matrix @ matrix.T @ matrix / n for matrix, n in zip(tv, norms, strict=True))
    return sum(tv), c, d


def formula(pivot, sources, time, rank_share):
    """S (I - V f V^T) + D V (f / l) V^T with the eigenvectors V of C."""
    total, c, d = operators(pivot, sources)
    values, vectors = torch.linalg.eigh(c)
    values, vectors = values.flip(0), vectors.flip(1)
    f = 1 - (-time * values).exp()
    f[math.ceil(rank_share * len(values)) :] = 0
    over = torch.where(f > 0, f / values.clamp(min=1e-12), 0.0)
    kept = total - total @ (vectors * f) @ vectors.T
    return pivot.double() + kept + d @ (vectors * over) @ vectors.T


def test_filter_moves_the_sum_towards_the_least_interference():
    # one task: the sum has the least interference already
    assert swudi(torch.zeros(1, 2), [torch.tensor([[3.0, 4.0]])]).tolist() == [
        [pytest.approx(3.0), pytest.approx(4.0)]
    ]
    # two equal tasks x: from their sum 2 x towards x, the share f of the way at eigenvalue 2
    twice = [torch.tensor([[3.0, 4.0]])] * 2
    f = 1 - math.exp(-2 * 0.1)
    assert swudi(torch.zeros(1, 2), twice, time=0.1).tolist() == [
        [pytest.approx(3 * (2 - f)), pytest.approx(4 * (2 - f))]
    ]


@pytest.mark.parametrize("shape", [(20, 30), (40, 15), (10, 50)])
@pytest.mark.parametrize(("n_sources", "time", "rank_share"), [(1, 300, 0.85), (3, 5, 0.4)])
def test_merge_follows_the_formula(shape, n_sources, time, rank_share):
    pivot, sources = random_models(shape, n_sources)
    merged = swudi(pivot, sources, time=time, rank_share=rank_share)
    expected = formula(pivot, sources, time, rank_share)
    assert torch.allclose(merged.double(), expected, atol=1e-6)


def test_filter_is_gradient_flow_from_the_sum():
    pivot, sources = random_models((6, 8), 2)
    total, c, d = operators(pivot, sources)
    flowing, step = total.clone(), 1e-3
    for _ in range(2000):  # to time 2
        flowing -= step * (flowing @ c - d)
    merged = swudi(pivot, sources, time=2.0, rank_share=1.0).double() - pivot
    assert torch.allclose(merged, flowing, atol=1e-4)


def test_time_zero_is_task_arithmetic_and_endless_time_is_wudi():
    pivot, sources = random_models((20, 12), 3)
    total = pivot + 0.5 * sum(source - pivot for source in sources)
    assert torch.allclose(swudi(pivot, sources, time=0, lam=0.5), total, atol=1e-6)
    endless = swudi(pivot, sources, time=1e9, rank_share=1.0)
    expected = merge_one(wudi, pivot, sources, lam=1.0, vocabulary="mean")
    assert torch.allclose(endless, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"time": -1}, "time must be a finite number of at least 0, got -1"),
        ({"time": float("inf")}, "time must be a finite number of at least 0, got inf"),
        ({"rank_share": 0.0}, r"rank_share must be in \(0, 1\], got 0.0"),
        ({"rank_share": 1.5}, r"rank_share must be in \(0, 1\], got 1.5"),
    ],
)
def test_values_out_of_range_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        swudi(torch.ones(1, 1), [torch.ones(1, 1)], **changed)
