"""Multi-SLERP: mean direction at the mean norm, mergekit, cancelling sources."""

import math

import pytest
import torch
from mergekit.merge_methods.api import merge_tensors

from baselines.multislerp import merge
from seme.streaming import CPU_BLOCK
from tests.in_memory import merge_one, random_models


def multislerp(pivot, *sources, weights=None, origin="pivot"):
    tensors = [torch.as_tensor(source) for source in sources]
    return merge_one(merge, torch.as_tensor(pivot), tensors, weights=weights, origin=origin)


def test_mean_direction_at_the_mean_norm():
    # lengths 2 and 4 along two axes: half of the way between the axes, at length 3
    merged = multislerp([1.0, 1.0], [3.0, 1.0], [1.0, 5.0])
    assert merged.tolist() == pytest.approx([1 + 3 / math.sqrt(2)] * 2)
    at_zero = multislerp([9.0, 9.0], [2.0, 0.0], [0.0, 4.0], origin="zero")
    assert at_zero.tolist() == pytest.approx([3 / math.sqrt(2)] * 2)


def test_weights_turn_the_direction_and_change_the_norm():
    # 3/4 and 1/4 of unit axes: direction [3, 1] / sqrt(10), norm 3/4 * 2 + 1/4 * 4 = 2.5
    merged = multislerp([0.0, 0.0], [2.0, 0.0], [0.0, 4.0], weights=[3, 1])
    assert merged.tolist() == pytest.approx([7.5 / math.sqrt(10), 2.5 / math.sqrt(10)])


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, 3.0, 0.5], [2.0, -0.5, 1.0]])
def test_merge_agrees_with_mergekit(weights):
    pivot, sources = random_models((20, 30))
    parameters = {"weight": weights}
    with_base = merge_tensors(
        [pivot, *sources], "multislerp", parameters=parameters, base_index=0
    )
    merged = multislerp(pivot, *sources, weights=weights)
    assert torch.allclose(merged, with_base, atol=1e-6, rtol=0)
    far = [torch.randn(20, 30, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    without = merge_tensors(far, "multislerp", parameters=parameters)
    merged = multislerp(pivot, *far, weights=weights, origin="zero")
    assert torch.allclose(merged, without, atol=1e-5, rtol=0)


def test_norms_are_of_the_whole_tensor():
    n = CPU_BLOCK
    first = torch.cat([torch.ones(n), torch.zeros(n)])
    second = torch.cat([torch.zeros(n), torch.ones(n)])
    merged = multislerp(torch.zeros(2 * n), first, second)
    assert merged.unique().tolist() == pytest.approx([math.sqrt(0.5)])


def test_cancelling_task_vectors_are_averaged():
    merged = multislerp([1.0, 1.0], [3.0, 1.0], [0.0, 1.0])  # task vectors 2 and -1
    assert merged.tolist() == [1.5, 1.0]
    opposed = [[3.0, 1.0], [-1.0, 1.0], [1.0, 1.0]]  # mergekit refuses three
    assert multislerp([1.0, 1.0], *opposed).tolist() == [1.0, 1.0]


def test_source_equal_to_the_pivot_shortens_and_does_not_turn():
    merged = multislerp([0.0, 0.0], [2.0, 2.0], [0.0, 0.0])
    assert merged.tolist() == pytest.approx([1.0, 1.0])


def test_one_source_and_equal_sources_are_returned():
    pivot, (source,) = random_models(n_sources=1)
    for origin in ("pivot", "zero"):
        for n in (1, 3):
            merged = multislerp(pivot, *[source] * n, origin=origin)
            assert torch.allclose(merged, source, atol=0, rtol=1e-7)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"weights": [1.0]}, "weights must hold one number per source: expected 2, got 1"),
        ({"weights": [1.0, -1.0]}, "weights of a mean must not sum to zero"),
        ({"origin": "mean"}, "origin must be one of pivot, zero, got 'mean'"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        multislerp([0.0], [1.0], [2.0], **bad)
