"""ACE-Merging: a worked example, the authors' steps in float64, both branches, edges."""

from functools import partial

import pytest
import torch

from baselines.ace import check, merge, spread_of, times_inverse
from tests.in_memory import merge_one, random_models

GIVEN = {"ridge": 0.01, "spread": 0.3, "refined": 0.3, "lam": 1.0, "vocabulary": "mean"}
ace = partial(merge_one, merge, **GIVEN)


def task_matrices(pivot, sources):
    return [source.double() - pivot.double() for source in sources]


def formula(tv, ridge=0.01, refined=0.3, spread=0.3):
    """The steps of the authors' code, with an inverse and LAPACK's SVD; whether sizes differ."""
    n = tv[0].shape[1]
    eye = torch.eye(n, dtype=torch.float64)
    logs = torch.stack([matrix.square().sum() for matrix in tv]).log()
    differ = len(tv) > 1 and bool(logs.var() / logs.mean() ** 2 > spread)
    sigmas, a, b = [], torch.zeros_like(eye), torch.zeros_like(tv[0])
    for matrix in tv:
        centred = matrix - matrix.mean(dim=0, keepdim=True)
        sigma, e = centred.T @ centred, ridge
        if differ:
            sigma, e = sigma / sigma.trace(), ridge / sigma.trace()
        sigmas.append(sigma)
        a += sigma + e * eye
        b += centred @ (sigma + e * eye)
    mean_square = torch.stack([matrix.square().sum() for matrix in tv]).mean()
    prior = sum(sigmas).mean(dim=0, keepdim=True) / (mean_square if differ else 1)
    solution = b @ torch.linalg.inv(a + prior)
    if differ:
        fused = solution + sum(
            matrix @ (sigma - a / len(tv)) for matrix, sigma in zip(tv, sigmas, strict=True)
        )
        u, s, vt = torch.linalg.svd(fused, full_matrices=False)
        k = int(len(s) * refined)
        solution = solution + s[:k].mean() * u[:, :k] @ vt[:k]
    return solution, differ


def test_task_matrices_are_weighted_by_covariances_and_the_mean_row():
    # centred already: covariances diag(2, 0) and diag(0, 8), their mean row (1, 4) in every row:
    # A = [[3, 4], [1, 12]], B = [[2, 16], [-2, -16]], B A^-1 = [[24 - 16, -8 + 48], ...] / 32
    one = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    other = torch.tensor([[0.0, 2.0], [0.0, -2.0]])
    merged = ace(torch.zeros(2, 2), [one, other], ridge=1e-9, spread=1e9)
    expected = torch.tensor([[0.25, 1.25], [-0.25, -1.25]])
    assert torch.allclose(merged, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 30), (31, 20), (5, 60)])
@pytest.mark.parametrize("n_sources", [1, 3])
def test_merge_of_like_sizes_follows_the_formula(shape, n_sources):
    pivot, sources = random_models(shape, n_sources)
    expected, differ = formula(task_matrices(pivot, sources))
    assert not differ
    merged = ace(pivot, sources, lam=0.7).double()
    assert torch.allclose(merged, pivot + 0.7 * expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 30), (31, 20), (5, 60)])
def test_merge_of_unlike_sizes_follows_the_formula(shape):
    pivot, sources = random_models(shape, 3)
    sources = [
        pivot + scale * (s - pivot) for scale, s in zip((1, 9, 90), sources, strict=True)
    ]
    expected, differ = formula(task_matrices(pivot, sources))
    assert differ
    merged = ace(pivot, sources).double()
    assert torch.allclose(merged, pivot + expected, atol=1e-4)
    alike = ace(pivot, sources, spread=1e3).double()
    assert torch.allclose(alike, pivot + formula(task_matrices(pivot, sources), spread=1e3)[0],
                          atol=1e-4)  # fmt: skip
    assert not torch.allclose(alike, merged, atol=1e-2)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6)])
def test_inverse_comes_from_the_smaller_gram_matrix(shape):
    rng = torch.Generator().manual_seed(0)
    stacked = torch.randn(shape, generator=rng, dtype=torch.float64)
    rows = torch.randn(3, shape[1], generator=rng, dtype=torch.float64)
    whole = stacked.T @ stacked + 0.1 * torch.eye(shape[1], dtype=torch.float64)
    assert torch.allclose(times_inverse(rows, stacked, 0.1) @ whole, rows, atol=1e-10)


def test_large_ridge_gives_the_mean_of_the_centred_task_matrices():
    pivot, sources = random_models((10, 8), 3)
    mean = sum(tv - tv.mean(dim=0) for tv in task_matrices(pivot, sources)) / 3
    assert torch.allclose(ace(pivot, sources, ridge=1e6).double(), pivot + mean, atol=1e-6)


def test_spread_is_the_variance_of_log_sizes():
    # squared norms e^2 and e^4: logarithms 2 and 4, variance 2, squared mean 9
    sizes = [torch.tensor([[2.718281828459045**k]], dtype=torch.float64) for k in (1, 2)]
    assert spread_of(sizes) == pytest.approx(2 / 9)
    assert spread_of(sizes[:1]) == 0.0


def test_source_without_a_change_takes_no_part():
    pivot, sources = random_models((8, 5), 2)
    assert torch.equal(ace(pivot, [*sources, pivot]), ace(pivot, sources))
    assert torch.equal(ace(pivot, [pivot]), pivot)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ridge": 0}, "ridge must be above 0, got 0"),
        ({"ridge": -1.0}, "ridge must be a finite number of at least 0, got -1.0"),
        ({"spread": -0.1}, "spread must be a finite number of at least 0, got -0.1"),
        ({"refined": 0}, r"refined must be in \(0, 1\], got 0"),
        ({"lam": "1"}, "lam must be a finite number, got '1'"),
    ],
)
def test_values_out_of_range_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        check(**{**GIVEN, **changed})
