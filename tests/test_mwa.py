"""Metrics-Weighted Averaging: weights of losses and steps, missing metrics."""

import math

import pytest
import torch

from baselines.mwa import merge, metric_shares
from tests.in_memory import merge_one, random_models


def mwa(*sources, values, metric="loss", penalty=1.0):
    tensors = [torch.as_tensor(source) for source in sources]
    options = {"metric": metric, "values": values, "penalty": penalty}
    return merge_one(merge, torch.zeros_like(tensors[0]), tensors, **options)


def test_lower_loss_weighs_more():
    # losses 1 and 3: weights 1 and 1/3, shares 3/4 and 1/4
    assert mwa([4.0], [8.0], values=[1, 3]).tolist() == pytest.approx([5.0])


def test_later_step_weighs_more():
    # squares of the steps 100 and 200: shares 1/5 and 4/5
    merged = mwa([5.0], [10.0], values=[100, 200], metric="step", penalty=2)
    assert merged.tolist() == pytest.approx([9.0])


def test_penalty_zero_is_the_plain_mean():
    pivot, sources = random_models((20, 30))
    merged = mwa(*sources, values=[1.0, 2.0, 5.0], penalty=0)
    assert torch.allclose(merged, torch.stack(sources).double().mean(dim=0).float(), rtol=1e-7)
    assert not torch.equal(merged, pivot)


def test_merge_agrees_with_the_formula():
    _, sources = random_models((300, 500))
    losses = [0.9, 1.1, 2.5]
    weights = [loss**-1.7 for loss in losses]
    expected = sum(w * s.double() for w, s in zip(weights, sources, strict=True)) / sum(weights)
    merged = mwa(*sources, values=losses, penalty=1.7)
    assert torch.equal(merged, expected.float())


def test_shares_of_extreme_metrics_are_finite():
    assert metric_shares([1e-300, 1.0], "loss", 10) == [1.0, 0.0]
    assert math.fsum(metric_shares([1, 1000, 10**6], "step", 3)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"values": None},
            r"values must be a list of one positive loss .*method.values=\[...\]",
        ),
        ({"values": "1,2"}, "values must be a list of one positive loss"),
        (
            {"values": [1.0]},
            r"values must hold one loss per source: expected 2, got 1: \[1.0\]",
        ),
        ({"values": [1.0, 0.0]}, r"values\[1\] must be positive, got 0.0"),
        ({"values": [1.0, None]}, r"values\[1\] must be a finite number, got None"),
        (
            {"values": [1, 2], "metric": "score"},
            "metric must be one of loss, step, got 'score'",
        ),
        ({"values": [1, 2], "penalty": -1.0}, "penalty must be a finite number of at least 0"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        mwa([0.0], [1.0], **bad)


def test_one_source_is_refused():
    with pytest.raises(ValueError, match="merges at least 2 sources into the pivot, got 1"):
        mwa([1.0], values=[1.0])
