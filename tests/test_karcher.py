"""Karcher mean: arcs and their middles, mergekit, the definition, degenerate vectors."""

import math

import pytest
import torch
from mergekit.merge_methods.karcher import karcher_merge_tensors

from baselines.karcher import merge
from baselines.multislerp import merge as multislerp
from tests.in_memory import merge_one, random_models

LIMITS = {"tolerance": 1e-5, "max_iterations": 10}


def karcher(pivot, *sources, weights=None, origin="zero", **limits):
    tensors = [torch.as_tensor(source) for source in sources]
    options = {"weights": weights, "origin": origin, **LIMITS, **limits}
    return merge_one(merge, torch.as_tensor(pivot), tensors, **options)


def far_apart(n_sources, shape=(20, 30)):
    draws = [torch.Generator().manual_seed(k) for k in range(n_sources)]
    return [torch.randn(shape, generator=rng) for rng in draws]


def test_mean_of_two_directions_is_the_middle_of_the_arc():
    # lengths 2 and 4 at right angles: 45 degrees, length 3
    merged = karcher([9.0, 9.0], [2.0, 0.0], [0.0, 4.0])
    assert merged.tolist() == pytest.approx([3 / math.sqrt(2)] * 2)
    at_pivot = karcher([1.0, 1.0], [3.0, 1.0], [1.0, 5.0], origin="pivot")
    assert at_pivot.tolist() == pytest.approx([1 + 3 / math.sqrt(2)] * 2)


def test_weights_divide_the_arc_by_angle():
    # a third of the way from the first axis to the second: 30 degrees
    merged = karcher([0.0, 0.0], [1.0, 0.0], [0.0, 1.0], weights=[2, 1], max_iterations=50)
    assert merged.tolist() == pytest.approx([math.sqrt(0.75), 0.5], abs=1e-5)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, 3.0, 0.5]])
def test_merge_agrees_with_mergekit(weights):
    sources = far_apart(3)
    shares = [weight / sum(weights) for weight in weights]
    merged = karcher(torch.zeros(20, 30), *sources, weights=weights)
    assert torch.allclose(merged, karcher_merge_tensors(sources, shares), atol=1e-4, rtol=0)


def test_sum_of_logarithms_at_the_mean_is_zero():
    sources = [source.double().flatten() for source in far_apart(4)]
    limits = {"tolerance": 0.0, "max_iterations": 30}
    merged = karcher(torch.zeros(20, 30), *far_apart(4), weights=[1, 2, 3, 4], **limits)
    mean = merged.double().flatten()
    scale = sum(w * source.norm() for w, source in zip([1, 2, 3, 4], sources, strict=True)) / 10
    assert mean.norm() == pytest.approx(float(scale), rel=1e-6)
    mean = mean / mean.norm()
    total = torch.zeros_like(mean)
    for weight, source in zip([1, 2, 3, 4], sources, strict=True):
        unit = source / source.norm()
        angle = torch.arccos(unit @ mean)
        total += weight * angle / torch.sin(angle) * (unit - (unit @ mean) * mean)
    assert total.norm() < 1e-5  # mean is rounded to float32


def test_without_steps_it_is_multislerp():
    pivot, sources = random_models()
    for origin in ("pivot", "zero"):
        direction = merge_one(multislerp, pivot, sources, weights=None, origin=origin)
        assert torch.allclose(
            karcher(pivot, *sources, origin=origin, max_iterations=0), direction, rtol=1e-6
        )


def test_zero_tensor_has_no_direction_but_counts_for_the_norm():
    assert karcher([0.0, 0.0], [2.0, 2.0], [0.0, 0.0]).tolist() == pytest.approx([1.0, 1.0])
    assert karcher([5.0], [0.0], [0.0]).tolist() == [0.0]


def test_antipodal_vectors_give_the_first_direction():
    assert karcher([0.0, 0.0], [1.0, 1.0], [-1.0, -1.0]).tolist() == pytest.approx([1.0, 1.0])


def test_one_source_and_equal_sources_are_returned():
    pivot, (source,) = random_models(n_sources=1)
    for origin in ("pivot", "zero"):
        for n in (1, 3):
            merged = karcher(pivot, *[source] * n, origin=origin)
            assert torch.allclose(merged, source, atol=0, rtol=1e-7)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"weights": [1.0]}, "weights must hold one number per source: expected 2, got 1"),
        ({"weights": [1.0, 0.0]}, "weights must be positive on a sphere"),
        ({"origin": "mean"}, "origin must be one of pivot, zero, got 'mean'"),
        ({"tolerance": -1.0}, "tolerance must be a finite number of at least 0, got -1.0"),
        ({"max_iterations": 0.5}, "max_iterations must be a whole number of at least 0"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        karcher([0.0], [1.0], [2.0], **bad)
