"""Iso-C: a worked example, the paper's formula in float64, laws, adapters of low rank."""

from functools import partial

import pytest
import torch

from baselines.iso_c import merge
from tests.in_memory import merge_models, merge_one, random_models

iso_c = partial(merge_one, merge, lam=1.0, vocabulary="mean")


def formula(pivot, sources, lam):
    """The paper's steps with LAPACK's SVD."""
    total = sum(source.double() - pivot.double() for source in sources)
    u, s, vt = torch.linalg.svd(total, full_matrices=False)
    return pivot.double() + lam * s.mean() * (u @ vt)


def test_singular_values_become_their_mean():
    # the sum of the tasks is diag(5, -1): singular values 5 and 1, their mean 3, signs stay
    sources = [torch.tensor([[5.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [0.0, -2.0]])]
    merged = iso_c(torch.zeros(2, 2), sources)
    assert torch.allclose(merged, torch.tensor([[3.0, 0.0], [0.0, -3.0]]), atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 30), (31, 20), (24, 24)])
@pytest.mark.parametrize("n_sources", [1, 3])
def test_merge_follows_the_formula(shape, n_sources):
    pivot, sources = random_models(shape, n_sources)
    merged = iso_c(pivot, sources, lam=0.7)
    assert torch.allclose(merged.double(), formula(pivot, sources, 0.7), atol=1e-6)


def test_directions_without_a_task_stay_zero():
    # rank 2 of 4: singular values 4 and 2 become 3, the other two directions stay as they are
    source = torch.diag(torch.tensor([4.0, 2.0, 0.0, 0.0]))
    merged = iso_c(torch.zeros(4, 4), [source])
    assert torch.allclose(merged, torch.diag(torch.tensor([3.0, 3.0, 0.0, 0.0])), atol=1e-6)


def test_rounding_of_an_adapter_is_not_scaled_up():
    rng = torch.Generator().manual_seed(0)
    pivot, up, down = (torch.randn(s, generator=rng) for s in ((60, 80), (60, 2), (2, 80)))
    adapted = (pivot.double() + 1e-3 * up.double() @ down.double()).float()
    change = iso_c(pivot, [adapted]).double() - pivot.double()
    values = torch.linalg.svdvals(change).tolist()
    assert values[1] == pytest.approx(values[0], rel=1e-3)
    assert values[2] < 1e-3 * values[0]


def test_opposite_tasks_cancel():
    pivot, (source,) = random_models((6, 8), 1)
    assert torch.allclose(iso_c(pivot, [source, 2 * pivot - source]), pivot, atol=1e-6)


def test_embeddings_get_the_mean():
    name = "lm_head.weight"
    models = [{name: torch.full((3, 2), value)} for value in (0.0, 1.0, 4.0)]
    merged = merge_models(merge, *models, lam=1.0, vocabulary="mean")
    assert merged[name].unique().tolist() == [2.5]
    merged = merge_models(merge, *models, lam=1.0, vocabulary="matrix")
    assert merged[name].unique().tolist() == [pytest.approx(5.0)]  # of rank 1: the sum


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lam": float("nan")}, "lam must be a finite number, got nan"),
        ({"vocabulary": "none"}, "vocabulary must be one of matrix, mean, got 'none'"),
    ],
)
def test_values_out_of_range_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        iso_c(torch.ones(1, 1), [torch.ones(1, 1)], **changed)
