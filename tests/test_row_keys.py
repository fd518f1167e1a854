"""Ranks of magnitudes within rows: ties by index, sorts of torch."""

import pytest
import torch

from baselines.row_keys import among_largest, ascending


def equal_magnitudes(shape=(50, 200)):
    """Numbers of few distinct values, zeros among them."""
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 9, shape, generator=rng).float() / 8


def test_ascending_is_a_stable_sort():
    assert ascending(torch.tensor([[3.0, 0.0, 3.0, 1.0]])).tolist() == [[1, 3, 0, 2]]
    values = equal_magnitudes()
    expected = values.argsort(dim=1, stable=True)
    assert torch.equal(torch.from_numpy(ascending(values)), expected)


def test_largest_of_equal_ones_are_the_first():
    marked = among_largest(torch.tensor([[1.0, 2.0, 2.0, 2.0], [5.0, 0.0, 0.0, 0.0]]), 2)
    assert marked.tolist() == [[False, True, True, False], [True, True, False, False]]


@pytest.mark.parametrize("n", [1, 57, 200])
def test_largest_are_those_of_a_stable_descending_sort(n):
    values = equal_magnitudes()
    first = values.argsort(dim=1, descending=True, stable=True)[:, :n]
    expected = torch.zeros_like(values, dtype=torch.bool).scatter_(1, first, True)
    assert torch.equal(torch.from_numpy(among_largest(values, n)), expected)


def test_rows_of_a_view_are_read_in_order():
    values = torch.tensor([[1.0, 4.0], [2.0, 3.0], [9.0, 0.0]])
    assert ascending(values.T).tolist() == [[0, 1, 2], [2, 1, 0]]
