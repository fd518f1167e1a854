"""Model Stock: the paper's ratio, mergekit, degenerate angles."""

import math

import pytest
import torch
from mergekit.merge_methods.api import merge_tensors

from baselines.model_stock import interpolation_ratio, merge
from seme.streaming import CPU_BLOCK
from tests.in_memory import merge_models, merge_one, random_models


def model_stock(pivot, *sources):
    return merge_one(merge, torch.as_tensor(pivot), [torch.as_tensor(s) for s in sources])


def near_each_other(shape, n_sources, seed=0):
    """Sources whose task vectors share a part: positive cosines."""
    pivot, sources = random_models(shape, n_sources, seed)
    shared = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1))
    return pivot, [source + shared for source in sources]


def test_ratio_of_two_task_vectors_at_sixty_degrees():
    # cos = 1/2, t = 2 * 1/2 / (1 + 1/2) = 2/3; the mean of the task vectors is [1.5, sqrt(3)/2]
    merged = model_stock([0.0, 0.0], [2.0, 0.0], [1.0, math.sqrt(3)])
    assert merged.tolist() == pytest.approx([1.0, math.sqrt(3) / 3])


@pytest.mark.parametrize(
    ("cosine", "n", "ratio"), [(1.0, 2, 1.0), (0.0, 3, 0.0), (0.5, 3, 0.75), (-1.0, 2, 0.0)]
)
def test_interpolation_ratio(cosine, n, ratio):
    assert interpolation_ratio(cosine, n) == ratio


def oracle(pivot, sources):
    """The paper's formula in float64."""
    tv = [(source.double() - pivot.double()).flatten() for source in sources]
    n = len(tv)
    cosines = [
        torch.dot(tv[i], tv[j]) / (tv[i].norm() * tv[j].norm())
        for i in range(n)
        for j in range(i + 1, n)
    ]
    cosine = sum(cosines) / len(cosines)
    t = n * cosine / (1 + (n - 1) * cosine)
    mean = sum(source.double() for source in sources) / n
    return (t * mean + (1 - t) * pivot.double()).float()


@pytest.mark.parametrize("n_sources", [2, 3, 5])
def test_merge_agrees_with_formula_and_mergekit(n_sources):
    pivot, sources = near_each_other((300, 500), n_sources)
    merged = model_stock(pivot, *sources)
    assert torch.allclose(merged, oracle(pivot, sources), atol=1e-7, rtol=0)
    peer = merge_tensors([pivot, *sources], "model_stock", base_index=0)
    assert torch.allclose(merged, peer, atol=1e-6, rtol=0)
    assert (merged - pivot).norm() < (sum(sources) / n_sources - pivot).norm()


def test_small_task_vectors_keep_their_angle_unlike_mergekit():
    # norms of 1e-5: mergekit takes their product, 1e-10, for 1e-6 and the cosine for 1e-4
    pivot = torch.zeros(2)
    source = torch.tensor([1e-5, 0.0])
    assert torch.equal(model_stock(pivot, source, source), source)
    peer = merge_tensors([pivot, source, source], "model_stock", base_index=0)
    assert peer[0] < 1e-8


def test_angle_is_per_tensor_not_per_block():
    n = CPU_BLOCK
    pivot = torch.zeros(2 * n)
    same, other = torch.ones(2 * n), torch.cat([torch.ones(n), -torch.ones(n)])
    assert torch.equal(model_stock(pivot, same, other), pivot)  # orthogonal as a whole
    merged = merge_models(merge, {"a": pivot, "b": pivot}, {"a": same, "b": same},
                          {"a": other, "b": same})  # fmt: skip
    assert torch.equal(merged["b"], same)


def test_zero_task_vector_is_orthogonal_to_others():
    # cosines 0, 0, 1 of three pairs: t = 3/3 / (1 + 2/3) = 0.6, of a mean of [2/3]
    merged = model_stock([0.0], [0.0], [1.0], [1.0])
    assert merged.tolist() == pytest.approx([0.4])


def test_opposed_task_vectors_leave_the_pivot():
    assert model_stock([1.0, -0.0], [2.0, 0.0], [0.0, 0.0]).tolist() == [1.0, 0.0]


def test_one_source_is_refused():
    with pytest.raises(ValueError, match="merges at least 2 sources into the pivot, got 1"):
        model_stock([0.0], [1.0])
