import pytest
import torch
from mergekit.merge_methods.api import merge_tensors

from baselines.average import check, merge
from seme.interface import Site

SITE = Site(name="w")


def average(sources, weights=None):
    tensors = [torch.tensor(source) for source in sources]
    return merge(torch.zeros_like(tensors[0]), tensors, SITE, weights=weights).tolist()


def test_average_ignores_the_pivot():
    pivot, sources = torch.tensor([100.0]), [torch.tensor([1.0]), torch.tensor([5.0])]
    assert merge(pivot, sources, SITE, weights=None).tolist() == [3.0]


@pytest.mark.parametrize(
    ("sources", "weights", "mean"),
    [
        ([[2.0], [6.0]], [1.0, 3.0], [5.0]),  # a quarter of 2 and three quarters of 6
        ([[5.0], [2.0]], [2, -1], [8.0]),  # twice 5 less once 2, over 2 - 1
    ],
)
def test_weights_are_divided_by_their_sum_and_may_be_negative(sources, weights, mean):
    assert average(sources, weights=weights) == mean


@pytest.mark.parametrize("weights", [None, [0.1, 0.2, 0.7], [3.0, 1e-9, 5.0]])
def test_average_of_equal_sources_is_bit_identical(weights):
    torch.manual_seed(0)
    source = torch.randn(50_000)
    assert torch.equal(merge(source, [source] * 3, SITE, weights=weights), source)


def test_average_agrees_with_mergekit_linear():
    torch.manual_seed(0)
    sources = [torch.randn(20, 30) for _ in range(3)]
    mergekit_mean = merge_tensors(sources, "linear", parameters={"weight": [1.0, 2.0, 0.5]})
    mean = merge(torch.zeros(20, 30), sources, SITE, weights=[1.0, 2.0, 0.5])
    assert torch.allclose(mean, mergekit_mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"one number per source: expected 2, got 1: \[1.0\]"),
        ([1.0, float("nan")], r"weights\[1\] must be a finite number, got nan"),
        ([1.0, -1.0], r"weights of a mean must not sum to zero, got \[1.0, -1.0\]"),
        ([1e-3, -1e-3 * (1 + 2e-16)], "weights of a mean must not sum to zero"),
        (2.0, "weights must be a list of numbers or null, got 2.0"),
        ("ab", "weights must be a list of numbers or null, got 'ab'"),
    ],
)
def test_invalid_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        check(weights=weights, n_sources=2)


def test_weights_that_cancel_are_refused():
    with pytest.raises(ValueError, match=r"must not cancel, got \[0.1, 0.2, -0.3\]"):
        average([[1.0], [1.0], [1.0]], weights=[0.1, 0.2, -0.3])


def test_weights_whose_sum_could_overflow_are_refused():
    with pytest.raises(ValueError, match=r"weights\[0\] must be .* at most 1e\+300"):
        check(weights=[1e308, 1e308], n_sources=2)
