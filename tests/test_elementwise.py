"""Sums of task vectors: compiled loops and torch give equal bits."""

import pytest
import torch

from seme.elementwise import add_signed, add_weighted, differences, weighted_mean
from tests.in_memory import random_models

pytestmark = pytest.mark.usefixtures("code_path")
SIZES = [1, 31, 1023, 1024, 1025, 5000]


def signed(pivot, sources, *, weights=None, scale=1.0, divide=False, kept=None):
    weights = [1.0] * len(sources) if weights is None else weights
    return add_signed(pivot, sources, weights=weights, scale=scale, divide=divide, kept=kept)


def columns(*task_vectors):
    """A pivot of zeros and sources that are these task vectors."""
    sources = [torch.tensor(tv) for tv in task_vectors]
    return torch.zeros_like(sources[0]), sources


@pytest.mark.parametrize("n", SIZES)
def test_single_source_is_restored_bit_identical(n):
    pivot, source = torch.randn(2, n, generator=torch.Generator().manual_seed(0))
    assert n < 1000 or not torch.equal(pivot + (source - pivot), source)
    assert torch.equal(add_weighted(pivot, [source], weights=[1.0], scale=1.0), source)
    assert torch.equal(signed(pivot, [source]).merged, source)


@pytest.mark.parametrize("n", SIZES)
def test_weighted_sum_is_rounded_once_from_float64(n):
    pivot, sources = random_models(n)
    tv = torch.stack(sources).double() - pivot.double()
    change = (tv[0] * 0.5 + tv[1] * -2.0 + tv[2] * 0.25) * 0.3
    merged = add_weighted(pivot, sources, weights=[0.5, -2.0, 0.25], scale=0.3)
    assert torch.equal(merged, (pivot.double() + change).float())


@pytest.mark.parametrize("n", SIZES)
def test_weighted_mean_of_equal_sources_is_bit_identical(n):
    _, (source,) = random_models(n, n_sources=1)
    weights = [0.1, 0.7, 0.4]
    merged = weighted_mean([source] * 3, weights=weights, divisor=sum(weights))
    assert torch.equal(merged, source)


def test_weighted_mean_divides_the_weighted_sum():
    _, sources = columns([3.0, 1.0], [5.0, -1.0])
    assert weighted_mean(sources, weights=[1.0, 3.0], divisor=2.0).tolist() == [9.0, -1.0]


def test_masks_apply_per_source_or_to_all_sources():
    pivot, sources = columns([1.0, 2.0, 4.0], [8.0, 16.0, 32.0])
    each = torch.tensor([[True, False, True], [False, True, True]])
    for add in (
        lambda kept: add_weighted(pivot, sources, weights=[1.0, 1.0], scale=1.0, kept=kept),
        lambda kept: signed(pivot, sources, kept=kept).merged,
    ):
        assert add(each).tolist() == [1.0, 16.0, 36.0]
        assert add(each[:1]).tolist() == [9.0, 0.0, 36.0]
        assert add(None).tolist() == [9.0, 18.0, 36.0]


def test_zero_change_keeps_the_sign_of_zero():
    pivot = torch.tensor([-0.0, 0.0, -0.0])
    for merged in (
        add_weighted(pivot, [torch.tensor([0.0, 0.0, 2.0])], weights=[1.0], scale=1.0),
        signed(pivot, [torch.tensor([0.0, 0.0, 2.0])]).merged,
    ):
        assert merged.tolist() == [0.0, 0.0, 2.0]
        assert merged.signbit().tolist() == [True, False, False]


def test_sign_is_elected_by_the_sum_and_zero_sums_elect_nothing():
    result = signed(
        *columns([4.0, -1.0, 0.0, 2.0], [-1.0, -3.0, 5.0, -2.0], [0.0, 2.0, 0.0, 0.0])
    )
    assert result.merged.tolist() == [4.0, -4.0, 5.0, 0.0]
    assert (result.n_values, result.n_survivors) == (8, 4)


def test_sum_can_be_divided_by_the_weights_of_survivors():
    pivot, sources = columns([4.0, -1.0, 0.0], [2.0, -3.0, 0.0], [-1.0, 2.0, 0.0])
    weights = [1.0, 3.0, 5.0]
    assert signed(pivot, sources, weights=weights).merged.tolist() == [10.0, -10.0, 0.0]
    result = signed(pivot, sources, weights=weights, divide=True, scale=2.0)
    assert result.merged.tolist() == [5.0, -5.0, 0.0]


@pytest.mark.parametrize("n", SIZES)
def test_differences_are_in_float32(n):
    pivot, sources = random_models(n)
    assert torch.equal(differences(pivot, sources), torch.stack(sources) - pivot)


def test_inputs_may_have_any_layout_and_are_unchanged():
    pivot, sources = random_models(2000)
    before = [tensor.clone() for tensor in (pivot, *sources)]
    rows = torch.stack(sources)
    scattered = [rows[2], rows[0], rows[1]]
    order = {"weights": [0.5, 1.0, 2.0], "scale": 0.7}
    expected = add_weighted(pivot, [row.clone() for row in scattered], **order)
    assert torch.equal(add_weighted(pivot, scattered, **order), expected)
    assert torch.equal(
        add_weighted(pivot, sources, **order), add_weighted(pivot, rows.unbind(), **order)
    )
    assert all(torch.equal(a, b) for a, b in zip(before, (pivot, *sources), strict=True))


@pytest.mark.parametrize("n_sources", [1, 2, 5])
@pytest.mark.parametrize("divide", [False, True])
def test_add_signed_equals_a_naive_loop(n_sources, divide):
    pivot, sources = random_models(300, n_sources)
    kept = torch.rand(n_sources, 300, generator=torch.Generator().manual_seed(1)) < 0.6
    weights = [0.1 + k / 3 for k in range(n_sources)]
    expected, n_values, n_survivors = [], 0, 0
    for i, start in enumerate(pivot.tolist()):
        tv = [(s[i].item() - start) * k[i].item() for s, k in zip(sources, kept, strict=True)]
        total = sum(tv)
        survivors = [(w, d) for w, d in zip(weights, tv, strict=True) if d * total > 0]
        change = sum(w * d for w, d in survivors)
        change /= sum(w for w, _ in survivors) if divide and survivors else 1.0
        expected.append(start + 0.4 * change)
        n_values += sum(d != 0 for d in tv)
        n_survivors += len(survivors)
    result = signed(pivot, sources, weights=weights, scale=0.4, divide=divide, kept=kept)
    assert torch.allclose(result.merged, torch.tensor(expected), rtol=0, atol=1e-6)
    assert (result.n_values, result.n_survivors) == (n_values, n_survivors)
