"""MetaGPT: shares of the squared norms over the whole model, the formula in float64."""

import pytest
import torch

from baselines.metagpt import energy_shares, merge, prepare
from tests.in_memory import merge_models, models_of, random_models


def test_coefficients_are_shares_of_the_energy_of_the_whole_model():
    # energies 1 + 8 = 9 and 1 + 0 = 1: shares 0.9 and 0.1 in both tensors
    pivot = {"a": torch.zeros(1), "b": torch.zeros(2)}
    first = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0, -2.0])}
    second = {"a": torch.tensor([-1.0]), "b": torch.zeros(2)}
    merged = merge_models(merge, pivot, first, second)
    assert merged["a"].tolist() == pytest.approx([0.8])
    assert merged["b"].tolist() == pytest.approx([1.8, -1.8])
    assert prepare(models_of(pivot, first, second)).diagnostics() == {
        "coefficients": [0.9, 0.1]
    }


def test_merge_agrees_with_the_formula():
    pivot, sources = random_models((300, 500))
    models = [{"a": m[:100] * 3, "b": m[100:]} for m in (pivot, *sources)]
    base = {name: tensor.double() for name, tensor in models[0].items()}
    tv = [{name: m[name].double() - base[name] for name in base} for m in models[1:]]
    energies = [sum(float(values.square().sum()) for values in v.values()) for v in tv]
    merged = merge_models(merge, *models)
    for name, values in merged.items():
        shares = [energy / sum(energies) for energy in energies]
        change = sum(share * v[name] for share, v in zip(shares, tv, strict=True))
        assert torch.allclose(values, (base[name] + change).float(), atol=1e-7, rtol=0)


def test_shares_of_nothing_are_equal():
    assert energy_shares([0.0, 0.0]) == (0.5, 0.5)
    assert energy_shares([3.0, 1.0]) == (0.75, 0.25)


def test_one_source_is_returned():
    pivot, (source,) = random_models(n_sources=1)
    assert torch.equal(merge_models(merge, {"w": pivot}, {"w": source})["w"], source)
