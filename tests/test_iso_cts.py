"""Iso-CTS: a worked example, the authors' steps in float64, the division of directions, edges."""

from functools import partial

import pytest
import torch

from baselines.iso_c import merge as iso_c
from baselines.iso_cts import merge, split
from tests.in_memory import merge_one, random_models

iso_cts = partial(merge_one, merge, common=0.8, lam=1.0, vocabulary="mean")


def formula(pivot, sources, common, lam):
    """The paper's steps with LAPACK's SVD, directions counted as in the authors' code."""
    tv = [source.double() - pivot.double() for source in sources]
    r, n_tasks = min(pivot.shape), len(tv)
    n_rest = round((r - int(r * common)) / n_tasks) * n_tasks
    k, per_task = r - n_rest, n_rest // n_tasks
    u, s, vt = torch.linalg.svd(sum(tv), full_matrices=False)
    shared = u[:, :k]
    parts = [(shared, s[:k], vt[:k])]
    for matrix in tv:
        u, s, vt = torch.linalg.svd(matrix - shared @ shared.T @ matrix, full_matrices=False)
        parts.append((u[:, :per_task], s[:per_task], vt[:per_task]))
    u_u, _, u_v = torch.linalg.svd(torch.cat([p[0] for p in parts], 1), full_matrices=False)
    v_u, _, v_v = torch.linalg.svd(torch.cat([p[2] for p in parts], 0), full_matrices=False)
    mean = torch.cat([p[1] for p in parts]).mean()
    return pivot.double() + lam * mean * (u_u @ u_v @ v_u @ v_v)


def test_common_and_specific_directions_get_their_mean():
    # sum diag(6, 2, 4): the first direction is common, the tasks add their own third and second:
    # singular values 6 (common), 4 and 2 (specific), their mean is 4
    one, other = (
        torch.diag(torch.tensor([3.0, 0.0, 4.0])),
        torch.diag(torch.tensor([3.0, 2, 0])),
    )
    merged = iso_cts(torch.zeros(3, 3), [one, other], common=0.34)
    assert torch.allclose(merged, 4 * torch.eye(3), atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 30), (31, 20), (24, 24)])
@pytest.mark.parametrize(("n_sources", "common"), [(2, 0.8), (3, 0.5), (4, 0.25)])
def test_merge_follows_the_formula(shape, n_sources, common):
    pivot, sources = random_models(shape, n_sources)
    merged = iso_cts(pivot, sources, common=common, lam=0.7)
    expected = formula(pivot, sources, common, 0.7)
    assert torch.allclose(merged.double(), expected, atol=1e-6)


def test_all_directions_in_common_is_iso_c():
    pivot, sources = random_models((12, 9), 3)
    expected = merge_one(iso_c, pivot, sources, lam=1.0, vocabulary="mean")
    assert torch.allclose(iso_cts(pivot, sources, common=1.0), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("n_directions", "n_tasks", "common", "expected"),
    [
        (20, 3, 0.8, (17, 1)),  # 4 remain: one for each of three, and one more in common
        (896, 3, 0.8, (716, 60)),
        (10, 5, 0.5, (5, 1)),
        (3, 4, 0.01, (3, 0)),  # rounding up would take more than there are
        (2, 5, 0.8, (2, 0)),
        (7, 2, 1.0, (7, 0)),
    ],
)
def test_directions_are_divided_evenly_among_the_tasks(n_directions, n_tasks, common, expected):
    assert split(n_directions, n_tasks, common) == expected


def test_directions_without_a_task_stay_zero():
    source = torch.diag(torch.tensor([4.0, 2.0, 0.0, 0.0]))
    merged = iso_cts(torch.zeros(4, 4), [source])
    assert torch.allclose(merged, torch.diag(torch.tensor([3.0, 3.0, 0.0, 0.0])), atol=1e-6)


@pytest.mark.parametrize("common", [0.0, -0.1, 1.5, True, "half"])
def test_common_outside_its_range_is_refused(common):
    with pytest.raises(ValueError, match=rf"common must be in \(0, 1\], got {common!r}"):
        iso_cts(torch.ones(1, 1), [torch.ones(1, 1)], common=common)
