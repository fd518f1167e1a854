"""mergekit's weighted task vectors: by hand, and against mergekit where it draws nothing."""

import pytest
import torch
from mergekit.merge_methods.api import merge_tensors

from baselines.mergekit_arithmetic import merge
from tests.in_memory import merge_one, random_models

PLAIN = {
    "origin": "pivot", "trim": "none", "densities": None, "gamma": 0.01, "epsilon": 0.15,
    "rescale": False, "weights": None, "elect": False, "normalize": False, "lam": 1.0,
}  # fmt: skip


def merged(pivot, sources, **settings):
    tensors = [torch.tensor(values) for values in (pivot, *sources)]
    return merge_one(merge, tensors[0], tensors[1:], **PLAIN | settings).tolist()


def test_signs_are_elected_by_the_weighted_sum():
    # task vectors [4, -1] and [-2, 3], weights 1 and 3: [4, -1] and [-6, 9] elect [-, +];
    # what agrees is [-6, 9]; divided by its weight 3
    found = merged(
        [0.0, 0.0], [[4.0, -1.0], [-2.0, 3.0]], weights=[1, 3], elect=True, normalize=True
    )
    assert found == [-2.0, 3.0]


def test_a_zero_sum_elects_plus():
    assert merged([0.0], [[4.0], [-4.0]], elect=True) == [4.0]


def test_each_task_vector_is_trimmed_to_its_own_density():
    # the largest of [4, 1] and both of [2, 2]
    found = merged([0.0, 0.0], [[4.0, 1.0], [2.0, 2.0]], trim="magnitude", densities=[0.5, 1])
    assert found == [6.0, 2.0]


def test_magnitude_keeps_at_least_one_element_and_none_at_zero():
    sources = [[4.0, 1.0, 2.0]]
    assert merged([0.0] * 3, sources, trim="magnitude", densities=[0.01]) == [4.0, 0.0, 0.0]
    assert merged([0.0] * 3, sources, trim="magnitude", densities=[0.0]) == [0.0] * 3


def test_outliers_leave_out_the_largest_where_there_is_room():
    # 4 elements: gamma 0.25 leaves out the 8, density 0.5 keeps the next two
    sources = [[1.0, 8.0, 4.0, 2.0]]
    some = merged([0.0] * 4, sources, trim="outliers", densities=[0.5], gamma=0.25)
    assert some == [0.0, 0.0, 4.0, 2.0]
    most = merged([0.0] * 4, sources, trim="outliers", densities=[0.75], gamma=0.9)
    assert most == [1.0, 0.0, 4.0, 2.0]


def test_rescaling_restores_the_l1_norm():
    # 4 of |4| + |-1| + |3| = 8 is left
    found = merged(
        [0.0] * 3, [[4.0, -1.0, 3.0]], trim="magnitude", densities=[0.34], rescale=True
    )
    assert found == [8.0, 0.0, 0.0]


def test_origin_zero_adds_up_the_models_themselves():
    assert merged([9.0], [[4.0], [2.0]], origin="zero", weights=[0.5, 2], lam=2.0) == [12.0]


def test_cancelling_weights_divide_by_one():
    assert merged([1.0], [[3.0], [2.0]], weights=[1, -1], normalize=True) == [2.0]


@pytest.mark.parametrize("trim", ["random", "rank"])
def test_random_steps_keep_the_share_and_the_l1_norm(trim):
    pivot, (source,) = random_models((200, 300), 1)
    settings = {"trim": trim, "densities": [0.4], "rescale": True}
    found = merge_one(merge, pivot, [source], **PLAIN | settings)
    change, tv = (found - pivot).double(), (source - pivot).double()
    kept = change != 0
    assert 0.38 < kept.double().mean() < 0.42
    assert change.abs().sum() == pytest.approx(tv.abs().sum().item(), rel=1e-4)
    factor = (tv.abs().sum() / tv[kept].abs().sum()).item()
    assert (change[kept] / tv[kept]).median().item() == pytest.approx(factor, rel=1e-4)
    other = merge_one(merge, pivot, [source], **PLAIN | settings, seed=1)
    assert not torch.equal(found, other)


def test_rank_keeps_larger_elements_more_often():
    pivot, (source,) = random_models((400, 200), 1)
    settings = {"trim": "rank", "densities": [0.5], "epsilon": 0.3}
    kept = merge_one(merge, pivot, [source], **PLAIN | settings) != pivot
    ranks = (source - pivot).abs().argsort(dim=1).argsort(dim=1)
    share = [kept[(ranks >= low) & (ranks < low + 50)].double().mean() for low in (0, 75, 150)]
    # keep probabilities go from 0.2 to 0.8; their means over these quarters of the ranks
    assert share == pytest.approx([0.275, 0.5, 0.725], abs=0.02)


@pytest.mark.parametrize("lam", [1.0, 0.7])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("method", "trim", "elect"),
    [
        ("task_arithmetic", "none", False),
        ("ties", "magnitude", True),
        ("breadcrumbs", "outliers", False),
        ("breadcrumbs_ties", "outliers", True),
    ],
)
def test_agrees_with_mergekit(method, trim, elect, normalize, lam):
    pivot, sources = random_models((31, 17), 3)
    weights, densities = [0.5, -0.3, 1.2], [0.3, 0.77, 1.0]
    extra = {"gamma": 0.05} if trim == "outliers" else {}
    shared = {"normalize": normalize, "lambda": lam, **extra}
    per_source = {"weight": weights, "density": densities}
    expected = merge_tensors(
        [pivot, *sources], method, parameters=shared | per_source, base_index=0
    )
    settings = {
        "trim": trim, "elect": elect, "normalize": normalize, "lam": lam, "weights": weights,
        "densities": densities if trim != "none" else None, **extra,
    }  # fmt: skip
    found = merge_one(merge, pivot, sources, **PLAIN | settings)
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"densities": [0.5, 0.5]},
            "densities must be null or one share per source, 1 of them",
        ),
        ({"densities": [1.5]}, r"densities\[0\] must be in \[0, 1\], got 1.5"),
        (
            {"trim": "rank", "densities": [0.1]},
            r"epsilon must leave densities\[0\] \+- epsilon",
        ),
        ({"trim": "top"}, "trim must be one of magnitude, none, outliers, random, rank"),
        ({"origin": "base"}, "origin must be one of pivot, zero"),
        ({"elect": 1}, "elect must be true or false, got 1"),
        ({"weights": [1, 2]}, "weights must hold one number per source"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        merged([0.0], [[1.0]], **settings)
