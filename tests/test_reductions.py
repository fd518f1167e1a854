import math

import pytest
import torch

from seme.kernels.reductions import energies, squared_distance


@pytest.mark.parametrize("n", [0, 1, 7, 1023, 1024, 1025, 10_000])
def test_squares_are_summed_in_float64(n):
    rng = torch.Generator().manual_seed(n)
    a, b = torch.randn(2, n, generator=rng)
    exact = math.fsum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True))
    assert squared_distance(a, b) == pytest.approx(exact, rel=1e-13)


def test_squares_beyond_float32_range_are_summed():
    for size in (1e-30, 1e30):
        total = squared_distance(torch.full((3000,), size), torch.zeros(3000))
        assert total == pytest.approx(3000 * size * size, rel=1e-6)


@pytest.mark.parametrize("n", [1, 1024, 5000])
def test_energies_count_only_kept_elements(n):
    rng = torch.Generator().manual_seed(n)
    pivot, *sources = torch.randn(4, n, generator=rng)
    kept = torch.rand(n, generator=rng) < 0.3
    n_kept, sums = energies(pivot, sources, kept.unsqueeze(0))
    assert n_kept == kept.sum()
    expected = [float(((s - pivot).double()[kept] ** 2).sum()) for s in sources]
    assert sums == pytest.approx(expected, rel=1e-5)
    none = torch.zeros(n, dtype=torch.bool)
    assert energies(pivot, sources, none) == (0, [0.0, 0.0, 0.0])
