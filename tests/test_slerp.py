"""SLERP: the arc between two tensors, mergekit's function, degenerate angles."""

import math

import pytest
import torch
from mergekit.merge_methods.slerp import slerp as mergekit_slerp

from baselines.slerp import arc_weights, check, cosine, merge
from seme.streaming import CPU_BLOCK
from tests.in_memory import merge_models, merge_one

HALF = math.sqrt(0.5)
"""Sine and cosine of 45 degrees."""


def slerp(pivot, source, *, t=0.5):
    return merge_one(merge, torch.as_tensor(pivot), [torch.as_tensor(source)], t=t)


def mergekit(pivot, source, t):
    return mergekit_slerp(torch.tensor([t]), pivot.unsqueeze(0), source.unsqueeze(0))[0]


def pair(shape=(20, 30), angle=1.0):
    """Two tensors at about an angle, of norms that differ."""
    rng = torch.Generator().manual_seed(0)
    pivot, other = torch.randn(2, *shape, generator=rng).unbind()
    return pivot, 1.5 * (math.cos(angle) * pivot + math.sin(angle) * other)


def test_slerp_of_orthogonal_tensors_keeps_the_norm():
    # [3, 0] to [0, 3] at half the angle: 3 cos 45 = 2.1213 in both, where a mean has 1.5
    assert slerp([3.0, 0.0], [0.0, 3.0]).tolist() == pytest.approx([3 * HALF, 3 * HALF])
    # a third of the way: 3 cos 30 and 3 sin 30
    assert slerp([3.0, 0.0], [0.0, 3.0], t=1 / 3).tolist() == pytest.approx(
        [3 * math.sqrt(0.75), 1.5]
    )


def test_slerp_interpolates_unnormalised_weights():
    # half of the way between lengths 2 and 4: each times sin 45
    assert slerp([2.0, 0.0], [0.0, 4.0]).tolist() == pytest.approx([2 * HALF, 4 * HALF])


@pytest.mark.parametrize("shape", [(7,), (20, 30), (3, 4, 5), (300, 500)])
@pytest.mark.parametrize("angle", [0.05, 1.0, 2.5])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_agrees_with_mergekit(shape, angle, t):
    pivot, source = pair(shape, angle)
    assert torch.allclose(slerp(pivot, source, t=t), mergekit(pivot, source, t), atol=1e-5)


@pytest.mark.parametrize(
    ("pivot", "source"),
    [
        ([0.0, 0.0], [1.0, 2.0]),
        ([1.0, 2.0], [0.0, 0.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([1e-9, 0.0], [1.0, 1.0]),
        ([1.0, 2.0], [2.0, 4.0]),
        ([1.0, 2.0], [-2.0, -4.0]),
        ([1.0, 0.0], [0.999, 0.01]),
        ([1.0, 0.0], [0.999, 0.04]),
    ],
)
def test_slerp_agrees_with_mergekit_on_degenerate_angles(pivot, source):
    pivot, source = torch.tensor(pivot), torch.tensor(source)
    for t in (0.25, 0.5):
        assert torch.allclose(slerp(pivot, source, t=t), mergekit(pivot, source, t), atol=1e-6)


def test_parallel_and_antiparallel_tensors_are_interpolated_linearly():
    assert slerp([1.0, 2.0], [3.0, 6.0], t=0.25).tolist() == [1.5, 3.0]
    assert slerp([1.0, 2.0], [-1.0, -2.0], t=0.25).tolist() == [0.5, 1.0]
    assert slerp([1.0, 2.0], [-1.0, -2.0]).tolist() == [0.0, 0.0]


def test_zero_tensor_is_treated_as_orthogonal():
    # the weight of the other is sin 45 at the middle
    assert slerp([0.0, 0.0], [2.0, 4.0]).tolist() == pytest.approx([2 * HALF, 4 * HALF])
    assert slerp([0.0], [0.0]).tolist() == [0.0]


def test_scalar_and_empty_tensors_keep_their_shape():
    assert slerp(2.0, 4.0).item() == 3.0
    assert slerp(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 3)


def test_angle_is_per_whole_tensor():
    n = CPU_BLOCK
    pivot = torch.cat([torch.ones(n), torch.zeros(n)]).view(n, 2)
    source = torch.cat([torch.zeros(n), torch.ones(n)]).view(n, 2)
    assert cosine(pivot, source) == 0.0
    merged = merge_models(merge, {"a": pivot, "b": pivot}, {"a": source, "b": pivot}, t=0.5)
    assert merged["a"].unique().tolist() == [pytest.approx(HALF)]
    assert torch.equal(merged["b"], pivot)


@pytest.mark.parametrize("shape", [(), (5,), (20, 30), (300, 500)])
def test_t_zero_is_the_pivot_and_t_one_the_source(shape):
    pivot, source = pair(shape)
    before = pivot.clone(), source.clone()
    assert torch.equal(slerp(pivot, source, t=0), pivot)
    assert torch.equal(slerp(pivot, source, t=1), source)
    assert torch.equal(pivot, before[0])
    assert torch.equal(source, before[1])


def test_slerp_is_symmetric_in_t():
    pivot, source = pair()
    assert torch.equal(slerp(pivot, source, t=0.25), slerp(source, pivot, t=0.75))


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 1.0])
def test_arc_weights_keep_the_norm_of_unit_vectors(t):
    for angle in (0.1, 1.0, 3.0):
        a, b = arc_weights(math.cos(angle), t)
        assert a * a + b * b + 2 * a * b * math.cos(angle) == pytest.approx(1.0)


def test_cosine_of_large_values_does_not_overflow():
    assert cosine(torch.tensor([1e30, 0.0]), torch.tensor([1e30, 1e30])) == pytest.approx(HALF)


@pytest.mark.parametrize("t", [-0.1, 1.5, float("nan"), True, "half", None])
def test_t_outside_the_unit_interval_is_refused(t):
    with pytest.raises(ValueError, match=rf"t must be in \[0, 1\], got {t!r}"):
        check(t=t)


def test_two_sources_are_refused():
    with pytest.raises(ValueError, match="merges exactly 1 source into the pivot, got 2"):
        merge_one(merge, torch.ones(1), [torch.ones(1)] * 2, t=0.5)
