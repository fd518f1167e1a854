"""Same-base check: fine-tunes of the embedded benchmark, other models, synthetic cases."""

import math

import pytest
import torch

from seme.ancestry import MAX_ELEMENTS, MIN_COSINE, ancestry_warnings, resemblance
from seme.checkpoint.reader import open_checkpoint

MATRIX = "model.layers.{}.mlp.up_proj.weight"


@pytest.fixture
def zoo(repository):
    return lambda name: open_checkpoint(f"eval/zoo/models/{name}", root=repository)


@pytest.mark.parametrize("name", ["code", "mathematics", "format", "multitask"])
def test_experts_of_the_embedded_benchmark_resemble_their_base(name, zoo):
    base = zoo("base")
    found = resemblance(base, zoo(name), base.names)
    assert found.cosine > 0.99
    assert found.distance < 0.15
    assert ancestry_warnings(base, {0: zoo(name)}, base.names) == []


def test_model_from_another_seed_does_not(zoo):
    base, independent = zoo("base"), zoo("independent")
    found = resemblance(base, independent, base.names)
    assert abs(found.cosine) < 0.01
    assert found.distance == pytest.approx(math.sqrt(2), abs=0.01)
    (line,) = ancestry_warnings(base, {0: zoo("code"), 3: independent}, base.names)
    assert line.startswith(f"source 3 ({independent.path}) does not look like a fine-tune")
    assert f"cosine of their weights is {found.cosine:.2f}, their relative distance 1.4" in line


def test_bytes_read_are_bounded(zoo):
    base, other = zoo("base"), zoo("independent")
    resemblance(base, other, base.names)
    assert other.bytes_read == base.bytes_read <= 2 * MAX_ELEMENTS


def weights(seed, n_layers=9, shape=(64, 48)):
    rng = torch.Generator().manual_seed(seed)
    return {MATRIX.format(i): torch.randn(shape, generator=rng) for i in range(n_layers)}


@pytest.mark.parametrize(
    ("kind", "cosine"),
    [("noise as large", 0.707), ("three quarters another", 0.316), ("neurons reordered", 0.0)],
)
def test_synthetic_sources(kind, cosine, model):
    own, other = weights(0), weights(1)
    change = {
        "noise as large": lambda n: own[n] + other[n],
        "three quarters another": lambda n: 0.25 * own[n] + 0.75 * other[n],
        "neurons reordered": lambda n: own[n].flip(0),
    }[kind]
    pivot, source = model("pivot", own), model("source", {n: change(n) for n in own})
    found = resemblance(pivot, source, pivot.names)
    assert found.cosine == pytest.approx(cosine, abs=0.02)
    assert (found.n_tensors, found.n_elements) == (8, 8 * 64 * 48)
    warned = ancestry_warnings(pivot, {0: source}, pivot.names)
    assert len(warned) == (cosine < MIN_COSINE)


@pytest.mark.parametrize(
    "tensors",
    [
        {MATRIX.format(0): torch.randn(8, 8)},  # too few elements
        {MATRIX.format(0): torch.zeros(99, 99)},
        {MATRIX.format(0): torch.full((99, 99), math.nan)},
        {"model.embed_tokens.weight": torch.randn(99, 99), "norm.weight": torch.ones(9999)},
    ],
)
def test_nothing_to_compare_tells_nothing(tensors, model):
    pivot, source = model("pivot", tensors), model("source", tensors)
    assert resemblance(pivot, source, pivot.names) is None
    assert ancestry_warnings(pivot, {0: source}, pivot.names) == []
