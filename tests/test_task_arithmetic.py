import pytest
import torch
from mergekit.merge_methods.api import merge_tensors
from peft.utils import merge_utils

from baselines.task_arithmetic import check, merge
from seme.interface import Site
from tests.in_memory import random_models

SITE = Site(name="w")


def add(pivot, sources, *, lam=1.0, weights=None):
    tensors = [torch.tensor(source) for source in sources]
    return merge(torch.tensor(pivot), tensors, SITE, lam=lam, weights=weights).tolist()


def test_scaled_sum_of_task_vectors_is_added():
    # task vectors [2, -1], [4, 3], sum [6, 2]; half of it on [1, 1]
    assert add([1.0, 1.0], [[3.0, 0.0], [5.0, 4.0]], lam=0.5) == [4.0, 2.0]


def test_weights_are_not_normalised():
    # 1 + 2 * 2 - 1 * 4
    assert add([1.0], [[3.0], [5.0]], weights=[2.0, -1.0]) == [1.0]


def test_negative_lam_subtracts_the_task_vector():
    assert add([1.0], [[3.0]], lam=-1.0) == [-1.0]


def test_task_arithmetic_agrees_with_mergekit_without_normalize():
    pivot, sources = random_models()
    merged = merge(pivot, sources, SITE, lam=0.4, weights=None)
    mergekit_merged = [
        merge_tensors(
            [pivot, *sources],
            "task_arithmetic",
            parameters={"weight": 1.0, "lambda": 0.4, "normalize": normalize},
            base_index=0,
        )
        for normalize in (False, True)
    ]
    assert torch.allclose(merged, mergekit_merged[0], rtol=0, atol=1e-6)
    assert torch.allclose(merged - pivot, 3 * (mergekit_merged[1] - pivot), rtol=0, atol=1e-6)


def test_task_arithmetic_agrees_with_peft():
    pivot, sources = random_models()
    tv = [source - pivot for source in sources]
    weights = [0.5, 1.0, -2.0]
    peft_merged = pivot + 0.4 * merge_utils.task_arithmetic(tv, torch.tensor(weights))
    merged = merge(pivot, sources, SITE, lam=0.4, weights=weights)
    assert torch.allclose(merged, peft_merged, rtol=0, atol=1e-6)


def test_one_source_at_lam_one_is_returned_bit_identical():
    pivot, sources = random_models((300, 200))
    assert torch.equal(merge(pivot, sources[:1], SITE, lam=1.0, weights=None), sources[0])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"lam": float("nan")}, "lam must be a finite number, got nan"),
        ({"lam": "big"}, "lam must be a finite number, got 'big'"),
        ({"weights": [1.0, 2.0]}, r"expected 1, got 2: \[1.0, 2.0\]"),
        ({"weights": [float("inf")]}, r"weights\[0\] must be a finite number, got inf"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        check(**{"lam": 1.0, "weights": None, "n_sources": 1} | bad)
