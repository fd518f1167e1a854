"""Localize-and-Stitch without data: masks over the model, means on their overlap."""

import pytest
import torch

from baselines.localize import merge
from tests.in_memory import merge_models, merge_one, random_models


def localize(pivot, *sources, density=0.5, lam=1.0):
    tensors = [torch.as_tensor(source) for source in sources]
    return merge_one(merge, torch.as_tensor(pivot), tensors, density=density, lam=lam)


def test_overlaps_are_averaged_and_the_rest_is_taken_over():
    # localized: [4, -3, -, -] and [-2, -, -, 6]; the overlap is their mean, unlike TIES'
    merged = localize([1.0] * 4, [5.0, -2.0, 2.0, 2.0], [-1.0, 2.0, 0.5, 7.0])
    assert merged.tolist() == [2.0, -2.0, 1.0, 7.0]
    half = localize([1.0] * 4, [5.0, -2.0, 2.0, 2.0], [-1.0, 2.0, 0.5, 7.0], lam=0.5)
    assert half.tolist() == [1.5, -0.5, 1.0, 4.0]


def test_largest_elements_are_those_of_the_model():
    pivot = {"a": torch.zeros(2), "b": torch.zeros(2)}
    source = {"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([1.0, 2.0])}
    merged = merge_models(merge, pivot, source, density=0.5, lam=1.0)
    assert (merged["a"].tolist(), merged["b"].tolist()) == ([9.0, 8.0], [0.0, 0.0])


@pytest.mark.parametrize("density", [0.05, 0.4, 1.0])
def test_merge_agrees_with_the_formula(density):
    pivot, sources = random_models((300, 500))
    base = pivot.double().flatten()
    total, count = torch.zeros_like(base), torch.zeros_like(base)
    for source in sources:
        tv = source.double().flatten() - base
        order = (source - pivot).flatten().abs().sort(stable=True, descending=True).indices
        largest = order[: round(density * 150_000)]
        largest = largest[tv[largest] != 0]
        total[largest] += tv[largest]
        count[largest] += 1
    expected = (base + total / count.clamp(min=1)).float().view(300, 500)
    assert torch.equal(localize(pivot, *sources, density=density), expected)


def test_one_source_localized_whole_is_returned():
    pivot, (source,) = random_models(n_sources=1)
    assert torch.equal(localize(pivot, source, density=1.0), source)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"lam": float("nan")}, "lam must be a finite number, got nan"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        localize([0.0], [1.0], **bad)
