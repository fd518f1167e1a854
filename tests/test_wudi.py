"""WUDI in closed form: a worked example, the pseudoinverse and the minimum, laws, edges."""

from functools import partial

import pytest
import torch

from baselines.wudi import merge
from tests.in_memory import merge_one, random_models

wudi = partial(merge_one, merge, lam=1.0, vocabulary="mean")


def task_matrices(pivot, sources):
    return [source.double() - pivot.double() for source in sources]


def formula(tv):
    """D C^+ of the paper on spectral regularisation."""
    norms = [matrix.square().sum() for matrix in tv]
    c = sum(matrix.T @ matrix / n for matrix, n in zip(tv, norms, strict=True))
    d = sum(matrix @ matrix.T @ matrix / n for matrix, n in zip(tv, norms, strict=True))
    return d @ torch.linalg.pinv(c, hermitian=True)


def interference(merged, tv):
    return sum(((merged - x) @ x.T).square().sum() / x.square().sum() for x in tv)


def test_tasks_on_other_inputs_are_added_and_shared_inputs_are_weighted():
    # input 0: only the first task, 2. input 2: only the second, 3. input 1: 1 of the first (norm
    # squared 5) and 4 of the second (25): (1^3 / 5 + 4^3 / 25) / (1^2 / 5 + 4^2 / 25) = 69 / 21
    sources = [torch.tensor([[2.0, 0, 0], [0, 1, 0]]), torch.tensor([[0.0, 0, 3], [0, 4, 0]])]
    expected = torch.tensor([[2.0, 0, 3], [0, 69 / 21, 0]])
    assert torch.allclose(wudi(torch.zeros(2, 3), sources), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 30), (40, 15), (10, 50)])
@pytest.mark.parametrize("n_sources", [1, 3])
def test_merge_follows_the_formula(shape, n_sources):
    pivot, sources = random_models(shape, n_sources)
    expected = pivot.double() + 0.7 * formula(task_matrices(pivot, sources))
    assert torch.allclose(wudi(pivot, sources, lam=0.7).double(), expected, atol=1e-6)


def test_merge_has_the_least_interference():
    pivot, sources = random_models((20, 30), 3)
    tv = task_matrices(pivot, sources)
    least = interference(wudi(pivot, sources).double() - pivot, tv)
    for k in range(5):
        nearby = formula(tv) + 1e-3 * torch.randn(20, 30, generator=torch.manual_seed(k))
        assert interference(nearby, tv) > least
    assert interference(sum(tv), tv) > least


def test_equal_sources_give_the_source():
    pivot, (source,) = random_models((8, 5), 1)
    assert torch.allclose(wudi(pivot, [source] * 3), source, atol=1e-6)


def test_source_without_a_change_takes_no_part():
    pivot, sources = random_models((8, 5), 2)
    assert torch.equal(wudi(pivot, [*sources, pivot]), wudi(pivot, sources))
    assert torch.equal(wudi(pivot, [pivot]), pivot)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lam": None}, "lam must be a finite number, got None"),
        ({"vocabulary": "all"}, "vocabulary must be one of matrix, mean, got 'all'"),
    ],
)
def test_values_out_of_range_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        wudi(torch.ones(1, 1), [torch.ones(1, 1)], **changed)
