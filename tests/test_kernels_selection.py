import numpy as np
import pytest
import torch

from seme.kernels.selection import count, differences, survivors, variance


def patterns_of(values):
    return values.numpy().view(np.int32) & 0x7FFFFFFF


@pytest.mark.parametrize("n", [1, 8, 1023, 1024, 1030, 20_000])
def test_count_equals_numpy_per_row_and_range(n):
    rng = torch.Generator().manual_seed(n)
    values = torch.randn(3, n, generator=rng)
    values[2] = values[2].bfloat16().float()  # many are equal
    ranges = []
    for row in patterns_of(values):
        ordered = np.sort(row)
        of_row = []
        for first in (n // 4, n - 1):  # a wide range, and that of the largest alone
            low, middle, high = ordered[[first, (first + n) // 2, max(first, n // 4 * 3)]]
            high = max(middle, high)
            of_row.append((low, high - low + 1, middle - low))
        ranges.append(of_row)
    counts = count(values, np.array(ranges, dtype=np.int32))
    for row, of_row, counted in zip(patterns_of(values), ranges, counts, strict=True):
        for (low, size, guess), (n_above, n_guessed, places) in zip(
            of_row, counted, strict=True
        ):
            inside = (row >= low) & (row < low + size)
            assert n_above == np.count_nonzero(row >= low + size)
            assert n_guessed == np.count_nonzero(row == low + guess)
            others = row[inside & (row != low + guess)] - low
            assert places.tolist() == others.tolist()


def test_count_ignores_signs():
    values = torch.tensor([[1.0, -2.0, -1.0, 3.0, -0.0]])
    one, two = patterns_of(torch.tensor([1.0, 2.0])).tolist()
    ranges = np.array([[(one, two - one + 1, 0)]], dtype=np.int32)
    (((n_above, n_guessed, places),),) = count(values, ranges)
    assert (n_above, n_guessed, places.tolist()) == (1, 2, [two - one])


def test_survivors_are_above_the_threshold_or_before_the_cutoff():
    values = torch.tensor([[2.0, -1.0, 0.5, 1.0], [0.0, 0.0, -0.0, 1.0]])
    masks = survivors(values, [1.0, 0.0], [2, 2])
    assert masks.tolist() == [[True, True, False, False], [True, True, False, True]]
    assert not survivors(values, [float("inf")] * 2, [0, 0]).any()


def test_survivors_are_below_the_limit_or_at_it_from_a_place_on():
    values = torch.tensor([[2.0, -1.0, 3.0, 2.0, -3.0, 2.0]])
    masks = survivors(values, [1.0], [0], [2.0], [1])
    assert masks.tolist() == [[False, False, False, True, False, True]]
    assert torch.equal(
        survivors(values, [1.0], [2], [float("inf")], [6]), survivors(values, [1.0], [2])
    )


@pytest.mark.parametrize("n_sources", [2, 3, 6])
def test_variance_equals_float64(n_sources):
    rng = torch.Generator().manual_seed(0)
    sources = list(0.02 * torch.randn(n_sources, 3000, generator=rng))
    expected = torch.stack(sources).double().var(0, correction=0) * n_sources**2
    assert torch.allclose(variance(sources, 1.0).double(), expected, rtol=1e-6)


def test_equal_sources_have_zero_variance():
    source = torch.rand(2000) + 1e-3
    assert not variance([source] * 5, 2.0**64).any()


def test_differences_equal_sources_minus_pivot():
    pivot, *sources = torch.randn(4, 2000)
    assert torch.equal(differences(pivot, sources), torch.stack(sources) - pivot)
