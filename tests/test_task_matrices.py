"""Task matrices: which tensors are decomposed, thin SVDs and polar factors against LAPACK's."""

import pytest
import torch

from baselines.task_matrices import (
    add_change,
    add_mean,
    is_matrix,
    polar_factor,
    rounding_norm,
    task_matrices,
    thin_svd,
    times_gram,
)
from tests.in_memory import random_models

SHAPES = [(20, 30), (30, 20), (25, 25), (1, 7), (7, 1)]


def random_matrix(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (4, 4), (True, True)),
        ("model.embed_tokens.weight", (9, 4), (False, True)),
        ("lm_head.weight", (9, 4), (False, True)),
        ("transformer.wte.weight", (9, 4), (False, True)),
        ("model.norm.weight", (4,), (False, False)),
        ("conv.weight", (4, 4, 3), (False, False)),
        ("scale", (), (False, False)),
    ],
)
def test_matrices_of_linear_layers_are_decomposed(name, shape, expected):
    assert is_matrix(name, shape, vocabulary="mean") == expected[0]
    assert is_matrix(name, shape, vocabulary="matrix") == expected[1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [None, 1, 5])
def test_thin_svd_agrees_with_lapack(shape, rank):
    matrix = random_matrix(*shape)
    left, values, right = thin_svd(matrix, floor=0.0, rank=rank)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    k = min(rank or 99, *shape)
    assert torch.allclose(values, s[:k], rtol=1e-10)
    assert torch.allclose((left * values) @ right.T, (u[:, :k] * s[:k]) @ vt[:k], atol=1e-10)
    assert torch.allclose(right.T @ right, torch.eye(k, dtype=torch.float64), atol=1e-10)


def test_thin_svd_of_a_steep_spectrum_keeps_what_a_gram_matrix_shows():
    u, _, vt = torch.linalg.svd(random_matrix(8, 12), full_matrices=False)
    s = torch.tensor([1, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-7, 0], dtype=torch.float64)
    left, values, right = thin_svd((u * s) @ vt, floor=0.0)
    assert torch.allclose(values, s[:6], rtol=1e-8)  # 1e-7 of the largest is below RESOLUTION
    polar = u[:, :6] @ vt[:6]
    assert torch.allclose(left @ right.T, polar, atol=1e-5)
    assert len(thin_svd((u * s) @ vt, floor=1e-2).values) == 2


def test_zero_matrix_has_no_directions():
    left, values, right = thin_svd(torch.zeros(4, 6, dtype=torch.float64), floor=0.0)
    assert (left.shape, values.shape, right.shape) == ((4, 0), (0,), (6, 0))
    assert polar_factor(left).shape == (4, 0)


def test_rounding_of_an_adapter_stays_below_the_floor():
    up, down = random_matrix(200, 3), random_matrix(3, 300, seed=1)
    weight = random_matrix(200, 300, seed=2).float()
    adapted = (weight.double() + 1e-3 * up @ down).float()
    (matrix,) = task_matrices(weight, [adapted])
    assert len(thin_svd(matrix, floor=rounding_norm(weight, [adapted])).values) == 3
    assert len(thin_svd(matrix, floor=0.0).values) > 3


@pytest.mark.parametrize("shape", [(20, 12), (12, 12), (1, 1)])
def test_polar_factor_agrees_with_lapack(shape):
    columns = random_matrix(*shape)
    u, _, vt = torch.linalg.svd(columns, full_matrices=False)
    assert torch.allclose(polar_factor(columns), u @ vt, atol=1e-9)


def test_polar_factor_leaves_out_missing_directions():
    # two equal columns share one direction: each gets 1 / sqrt(2) of it
    columns = torch.tensor([[3.0, 3.0], [4.0, 4.0]], dtype=torch.float64)
    expected = torch.tensor([[0.6, 0.6], [0.8, 0.8]], dtype=torch.float64) / 2**0.5
    assert torch.allclose(polar_factor(columns), expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_times_gram_matrix(shape):
    matrix, rows = random_matrix(*shape), random_matrix(4, shape[1], seed=1)
    expected = torch.einsum("rn,mn,mk->rk", rows, matrix, matrix)
    assert torch.allclose(times_gram(rows, matrix), expected, atol=1e-10)


def test_task_matrices_come_in_the_same_order_for_any_order_of_sources():
    pivot, sources = random_models(n_sources=4)
    first = task_matrices(pivot, sources)
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        again = task_matrices(pivot, [sources[i] for i in order])
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_zero_change_keeps_the_bits_of_the_pivot():
    pivot = torch.tensor([[-0.0, 1.0]])
    change = torch.tensor([[1e30, 1.0]], dtype=torch.float64)
    for kept in (add_change(pivot, change, lam=0.0), add_mean(pivot, [pivot], lam=1.0)):
        assert torch.equal(torch.signbit(kept), torch.signbit(pivot))
    assert add_change(pivot, change, lam=2.0).tolist() == [[pytest.approx(2e30), 3.0]]


def test_other_tensors_get_the_mean_of_the_task_vectors():
    sources = [torch.tensor([3.0, 1.0]), torch.tensor([1.0, 5.0])]
    assert add_mean(torch.ones(2), sources, lam=0.5).tolist() == [1.5, 2.0]
