"""RAM and RAM+: shared elements averaged, unique ones scaled, mergekit."""

import pytest
import torch
from mergekit.merge_methods.api import merge_tensors

from baselines.ram import merge, prepare, unique_scales
from tests.in_memory import merge_models, merge_one, models_of, random_models

PLUS = {"r": 0.1, "alpha": 0.2, "epsilon": 1e-5}


def ram(pivot, *sources, **options):
    tensors = [torch.as_tensor(source) for source in sources]
    options = PLUS | {"r": 0.0, "scope": "tensor"} | options
    return merge_one(merge, torch.as_tensor(pivot), tensors, **options)


def sparse_models(shape=(40, 50), n_sources=3):
    """Sources that change a third of the elements each."""
    pivot, sources = random_models(shape, n_sources)
    rng = torch.Generator().manual_seed(9)
    return pivot, [torch.where(torch.rand(shape, generator=rng) < 1 / 3, source, pivot)
                   for source in sources]  # fmt: skip


def test_shared_elements_are_averaged_and_unique_ones_added():
    # shared by two, unique to the first, unique to the second, unchanged
    merged = ram([1.0] * 4, [5.0, 3.0, 1.0, 1.0], [3.0, 1.0, 9.0, 1.0])
    assert merged.tolist() == [4.0, 3.0, 9.0, 1.0]


def test_unique_elements_grow_with_the_overlap():
    # each source: one shared, one unique; overlap 1, of which 0.5 counts: scale 1.25
    merged = ram([0.0] * 3, [4.0, 2.0, 0.0], [2.0, 0.0, 8.0], r=0.5, alpha=0.5)
    assert merged.tolist() == [3.0, 2.5, 10.0]
    assert unique_scales([(1, 10), (10, 1), (5, 0)], r=0.1, alpha=0.2) == pytest.approx(
        (1.01, 1.02, 1.02)
    )


@pytest.mark.parametrize(("name", "r"), [("ram", 0.0), ("ramplus_tl", 0.1)])
def test_merge_agrees_with_mergekit(name, r):
    pivot, sources = sparse_models()
    peer = merge_tensors([pivot, *sources], name, base_index=0)
    assert torch.allclose(ram(pivot, *sources, r=r), peer, atol=1e-6, rtol=0)


def test_scope_model_counts_over_all_tensors():
    # tensor a is shared, b unique: overlap 1 over the model; in each tensor there is no other
    pivot = {"a": torch.zeros(1), "b": torch.zeros(2)}
    first = {"a": torch.tensor([2.0]), "b": torch.tensor([4.0, 0.0])}
    second = {"a": torch.tensor([2.0]), "b": torch.tensor([0.0, 4.0])}
    options = {"r": 0.5, "alpha": 0.5, "epsilon": 0.0}
    whole = merge_models(merge, pivot, first, second, scope="model", **options)
    assert (whole["a"].tolist(), whole["b"].tolist()) == ([2.0], [5.0, 5.0])
    local = merge_models(merge, pivot, first, second, scope="tensor", **options)
    assert (local["a"].tolist(), local["b"].tolist()) == ([2.0], [4.0, 4.0])
    prepared = prepare(models_of(pivot, first, second), scope="model", **options)
    assert prepared.diagnostics() == {"scales": [1.25, 1.25]}


def test_plain_ram_needs_no_pass():
    tuned = models_of({"a": torch.zeros(2)}, {"a": torch.ones(2)})
    prepared = prepare(tuned, **PLUS | {"r": 0.0}, scope="model")
    assert (tuned.pivot.n_opened, prepared.diagnostics()) == (0, {"scales": [1.0]})


def test_elements_up_to_epsilon_add_nothing():
    merged = ram([0.0, 0.0], [0.25, 0.5], [1.0, 0.25], epsilon=0.25)
    assert merged.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("n_sources", [1, 2, 3, 7])
@pytest.mark.parametrize(("epsilon", "r"), [(0.0, 0.1), (0.01, 0.1), (0.01, 0.0), (9.0, 0.5)])
def test_compiled_loops_have_the_bits_of_torch(in_torch, n_sources, epsilon, r):
    pivot, sources = sparse_models((70, 600), n_sources)
    compiled = ram(pivot, *sources, epsilon=epsilon, r=r)
    in_torch()
    in_steps = ram(pivot, *sources, epsilon=epsilon, r=r)
    assert torch.equal(compiled.view(torch.int32), in_steps.view(torch.int32))


def test_one_source_is_returned():
    pivot, (source,) = random_models(n_sources=1)
    assert torch.equal(ram(pivot, source, epsilon=0.0, r=0.1), source)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"r": -0.1}, "r must be a finite number of at least 0, got -0.1"),
        ({"alpha": float("nan")}, "alpha must be a finite number of at least 0, got nan"),
        ({"epsilon": True}, "epsilon must be a finite number of at least 0, got True"),
        ({"scope": "layer"}, "scope must be one of model, tensor, got 'layer'"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        ram([0.0], [1.0], **bad)
