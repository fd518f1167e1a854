"""Model Breadcrumbs: both tails of the magnitudes masked, mergekit."""

import pytest
import torch
from mergekit.merge_methods.api import merge_tensors

from baselines.breadcrumbs import merge
from tests.in_memory import merge_one, random_models


def breadcrumbs(pivot, *sources, density=0.5, gamma=0.25, lam=1.0):
    tensors = [torch.as_tensor(source) for source in sources]
    options = {"density": density, "gamma": gamma, "lam": lam}
    return merge_one(merge, torch.as_tensor(pivot), tensors, **options)


def test_smallest_and_largest_are_left_out():
    # of four magnitudes one is an outlier, two stay, one is small
    merged = breadcrumbs([1.0, 1.0, 1.0, 1.0], [2.0, 3.0, -2.0, 9.0])
    assert merged.tolist() == [1.0, 3.0, -2.0, 1.0]


def test_masked_task_vectors_are_summed_and_scaled():
    merged = breadcrumbs([0.0] * 4, [1.0, 2.0, -3.0, 8.0], [9.0, 1.0, 3.0, 4.0], lam=0.5)
    assert merged.tolist() == [0.0, 1.0, 0.0, 2.0]


@pytest.mark.parametrize(("density", "gamma"), [(0.1, 0.01), (0.5, 0.25), (0.95, 0.05)])
def test_merge_agrees_with_mergekit_and_a_sort(density, gamma):
    pivot, sources = random_models((40, 50))  # 2000 elements: every share is a whole number
    merged = breadcrumbs(pivot, *sources, density=density, gamma=gamma, lam=0.7)
    parameters = {"density": density, "gamma": gamma, "weight": 1.0, "lambda": 0.7}
    peer = merge_tensors([pivot, *sources], "breadcrumbs", parameters=parameters, base_index=0)
    assert torch.allclose(merged, peer, atol=1e-6, rtol=0)
    total = torch.zeros(2000, dtype=torch.float64)
    for source in sources:
        tv = (source - pivot).flatten()
        order = tv.abs().argsort(descending=True)
        band = order[round(2000 * gamma) : round(2000 * gamma) + round(2000 * density)]
        total[band] += (source.double() - pivot.double()).flatten()[band]
    exact = (pivot.double() + 0.7 * total.view(40, 50)).float()
    assert torch.equal(merged, exact)


def test_mask_is_of_the_tensor_and_never_keeps_a_zero():
    source = torch.zeros(300, 500)
    source[0, :4] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    merged = breadcrumbs(torch.zeros(300, 500), source, density=0.5, gamma=2 / 150_000)
    assert merged.count_nonzero() == 2
    assert merged[0, :4].tolist() == [0.0, 0.0, 2.0, 1.0]


def test_gamma_zero_trims_as_ties_and_everything_kept_is_the_source():
    pivot, sources = random_models(n_sources=1)
    assert torch.equal(breadcrumbs(pivot, *sources, density=1.0, gamma=0.0), sources[0])
    assert breadcrumbs([0.0] * 4, [1.0, 2.0, 3.0, 4.0], gamma=0.0).tolist() == [0, 0, 3, 4]


def test_shares_that_round_to_nothing():
    assert breadcrumbs([0.0, 0.0], [1.0, 2.0], density=0.1, gamma=0.1).tolist() == [0.0, 0.0]
    assert breadcrumbs([0.0, 0.0], [1.0, 2.0], density=0.5, gamma=0.2).tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"gamma": -0.1}, r"gamma must be in \[0, 1\], got -0.1"),
        ({"density": 0.9, "gamma": 0.2}, "gamma must be at most 1 - density, 0.1"),
        ({"lam": float("inf")}, "lam must be a finite number, got inf"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        breadcrumbs([0.0], [1.0], **bad)
