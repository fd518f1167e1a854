import pytest
import torch
from mergekit.merge_methods.api import merge_tensors

from baselines.mergekit_sce import merge
from tests.in_memory import merge_one, random_models


def merged(pivot, sources, *, tau=1.0, lam=1.0):
    tensors = [torch.tensor(values) for values in (pivot, *sources)]
    return merge_one(merge, tensors[0], tensors[1:], tau=tau, lam=lam).tolist()


def test_worked_example():
    # task vectors [2, -2], [1, 1]: mean squares 4 and 1, weights 0.8 and 0.2; sums [3, -1];
    # so 1.6 + 0.2 where both agree, and the first alone where it is the only negative
    assert merged([0.0, 0.0], [[2.0, -2.0], [1.0, 1.0]]) == pytest.approx([1.8, -2.0])


def test_the_share_is_of_the_elements_that_vary():
    # two of four elements vary; half of them is the second
    found = merged([0.0] * 4, [[1.0, 5.0, 2.0, 3.0], [1.0, -1.0, 1.0, 3.0]], tau=0.5)
    assert found == pytest.approx([0.0, 5.0, 0.0, 0.0])


def test_tiny_energies_weigh_alike():
    found = merged([0.0], [[1e-4], [3e-4]])
    assert found == pytest.approx([2e-4])


@pytest.mark.parametrize("tau", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_agrees_with_mergekit(tau, scale):
    pivot, sources = random_models((31, 17), 3)
    sources = [pivot + scale * 100 * (source - pivot) for source in sources]
    expected = merge_tensors(
        [pivot, *sources], "sce", parameters={"select_topk": tau}, base_index=0
    )
    found = merge_one(merge, pivot, sources, tau=tau, lam=1.0)
    assert torch.allclose(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": 1.5}, r"tau must be in \[0, 1\], got 1.5"),
        ({"lam": "x"}, "lam must be a finite number, got 'x'"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        merged([0.0], [[1.0]], **settings)
