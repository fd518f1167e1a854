"""TSV-Merge: a worked example, the paper's formula in float64, laws, edges."""

from functools import partial

import pytest
import torch

from baselines.tsv_m import merge
from tests.in_memory import merge_models, merge_one, random_models

tsv_m = partial(merge_one, merge, lam=1.0, vocabulary="mean")


def formula(pivot, sources, lam=1.0):
    """The paper's steps with LAPACK's SVD."""
    tv = [source.double() - pivot.double() for source in sources]
    k = min(pivot.shape) // len(tv)
    parts = [torch.linalg.svd(matrix, full_matrices=False) for matrix in tv]
    left = torch.cat([u[:, :k] for u, _, _ in parts], dim=1)
    values = torch.cat([s[:k] for _, s, _ in parts])
    right = torch.cat([vt[:k] for _, _, vt in parts])
    u_u, _, u_v = torch.linalg.svd(left, full_matrices=False)
    v_u, _, v_v = torch.linalg.svd(right, full_matrices=False)
    return pivot.double() + lam * (u_u @ u_v @ values.diag() @ v_u @ v_v)


def test_orthogonal_tasks_are_added_and_lesser_directions_dropped():
    # two tasks of a 2 x 2 matrix keep one direction each: 5 of the first, 4 of the second
    sources = [torch.tensor([[5.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [0.0, 4.0]])]
    merged = tsv_m(torch.zeros(2, 2), sources)
    assert torch.allclose(merged, torch.tensor([[5.0, 0.0], [0.0, 4.0]]), atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 30), (31, 20), (24, 24)])
@pytest.mark.parametrize("n_sources", [2, 3, 5])
def test_merge_follows_the_formula(shape, n_sources):
    pivot, sources = random_models(shape, n_sources)
    merged = tsv_m(pivot, sources, lam=0.7)
    assert torch.allclose(merged.double(), formula(pivot, sources, lam=0.7), atol=1e-6)


def test_one_source_at_full_scale_is_the_source():
    pivot, (source,) = random_models((20, 30), 1)
    assert torch.allclose(tsv_m(pivot, [source]), source, atol=1e-7)


def test_equal_sources_keep_their_leading_directions():
    pivot, (source,) = random_models((20, 30), 1)
    u, s, vt = torch.linalg.svd((source - pivot).double(), full_matrices=False)
    expected = pivot + (u[:, :10] * s[:10]) @ vt[:10]
    assert torch.allclose(tsv_m(pivot, [source] * 2).double(), expected, atol=1e-6)


def test_directions_without_a_task_are_left_out():
    # rank 1 each, in a 4 x 4 matrix that would keep 2: an SVD's second vectors are arbitrary
    one, other = torch.zeros(4, 4), torch.zeros(4, 4)
    one[0, 1], other[2, 3] = 3.0, 2.0
    assert torch.allclose(tsv_m(torch.zeros(4, 4), [one, other]), one + other, atol=1e-6)


def test_more_tasks_than_directions_keep_one_each():
    pivot, sources = random_models((2, 30), 3)
    assert torch.linalg.matrix_rank(tsv_m(pivot, sources) - pivot, tol=1e-5) == 2


def test_embeddings_and_vectors_get_the_mean():
    pivot, sources = random_models((8, 6), 2)
    names = ("model.embed_tokens.weight", "model.norm.weight", "a.q_proj.weight")
    models = [dict(zip(names, (m, m[0], m), strict=True)) for m in (pivot, *sources)]
    mean = pivot + sum(source - pivot for source in sources) / 2
    merged = merge_models(merge, *models, lam=1.0, vocabulary="mean")
    assert torch.allclose(merged[names[0]], mean)
    assert torch.allclose(merged[names[1]], mean[0])
    assert not torch.allclose(merged[names[2]], mean)
    as_matrix = merge_models(merge, *models, lam=1.0, vocabulary="matrix")
    assert torch.equal(as_matrix[names[0]], merged[names[2]])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lam": float("inf")}, "lam must be a finite number, got inf"),
        ({"vocabulary": "median"}, "vocabulary must be one of matrix, mean, got 'median'"),
    ],
)
def test_values_out_of_range_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        tsv_m(torch.ones(1, 1), [torch.ones(1, 1)], **changed)
