"""NAN: inverse norms over the whole model."""

import pytest
import torch

from baselines.nan_weights import inverse_shares, merge, prepare
from tests.in_memory import merge_models, models_of, random_models


def test_weights_are_inverse_norms_of_the_whole_model():
    # norms 3 and 1: inverse shares 1/4 and 3/4 in both tensors
    pivot = {"a": torch.zeros(1), "b": torch.zeros(2)}
    first = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0, -2.0])}
    second = {"a": torch.tensor([-1.0]), "b": torch.zeros(2)}
    assert prepare(models_of(pivot, first, second)).diagnostics() == {
        "coefficients": pytest.approx([0.25, 0.75])
    }
    merged = merge_models(merge, pivot, first, second, lam=2.0)
    assert merged["a"].tolist() == pytest.approx([-1.0])
    assert merged["b"].tolist() == pytest.approx([1.0, -1.0])


def test_every_weighted_task_vector_has_the_same_norm():
    pivot, sources = random_models((40, 50))
    scaled = [pivot + k * (source - pivot) for k, source in enumerate(sources, start=1)]
    models = models_of({"w": pivot}, *({"w": source} for source in scaled))
    weights = prepare(models).diagnostics()["coefficients"]
    norms = [w * float((s - pivot).norm()) for w, s in zip(weights, scaled, strict=True)]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-6)
    assert sum(weights) == pytest.approx(1.0)


def test_source_equal_to_the_pivot_has_no_weight():
    assert inverse_shares([0.0, 2.0, 2.0]) == (0.0, 0.5, 0.5)
    assert inverse_shares([0.0]) == (0.0,)


def test_one_source_is_returned():
    pivot, (source,) = random_models(n_sources=1)
    assert torch.equal(merge_models(merge, {"w": pivot}, {"w": source}, lam=1.0)["w"], source)


def test_infinite_lam_is_refused():
    models = [{"w": torch.zeros(1)}, {"w": torch.ones(1)}]
    with pytest.raises(ValueError, match="lam must be a finite number, got inf"):
        merge_models(merge, *models, lam=float("inf"))
