"""SeMe over directions: worked examples, the conditions solved in float64 by other means, laws, edges."""

from functools import partial

import pytest
import torch
from scipy.optimize import lsq_linear, minimize

from baselines.seme_directions import bounded_solution, is_two_dimensional, merge
from tests.in_memory import merge_models, merge_one, random_models

seme_directions = partial(merge_one, merge)
HEAD = "lm_head.weight"


def merge_head(pivot, sources):
    """Merge a matrix that has a row per token."""
    return merge_models(merge, {HEAD: pivot}, *({HEAD: s} for s in sources))[HEAD]


def leading(pivot, sources):
    """LAPACK's leading directions of every source, side by side, float64."""
    k = min(pivot.shape) // len(sources)
    parts = [torch.linalg.svd((s - pivot).double(), full_matrices=False) for s in sources]
    left = torch.cat([u[:, :k] for u, _, _ in parts], dim=1)
    right = torch.cat([vt[:k].T for _, _, vt in parts], dim=1)
    return left, torch.cat([s[:k] for _, s, _ in parts]), right


def polar(columns):
    u, _, vt = torch.linalg.svd(columns, full_matrices=False)
    return u @ vt


def formula(pivot, sources):
    """Directions made orthogonal, values by SciPy's bounded minimisation in float64."""
    left, values, right = leading(pivot, sources)
    outputs, inputs = polar(left), polar(right)
    overlaps = ((left.T @ outputs) * (right.T @ inputs)).numpy()
    needed = values.numpy()
    solved = minimize(
        lambda c: (c @ overlaps @ c / 2 - needed @ c, overlaps @ c - needed),
        needed,
        jac=True,
        bounds=[(0, b) for b in needed / overlaps.diagonal()],
        options={"ftol": 1e-16, "gtol": 1e-10, "maxiter": 5000},
    )
    return pivot.double() + (outputs * torch.from_numpy(solved.x)) @ inputs.T


def test_orthogonal_tasks_are_added_and_lesser_directions_dropped():
    # two tasks of a 2 x 2 matrix keep one direction each: 5 of the first, 4 of the second
    sources = [torch.tensor([[5.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [0.0, 4.0]])]
    merged = seme_directions(torch.zeros(2, 2), sources)
    assert torch.allclose(merged, torch.tensor([[5.0, 0.0], [0.0, 4.0]]), atol=1e-6)


def test_value_along_directions_that_meet_is_raised():
    # both write to the first output, from inputs at an angle of 60 degrees. The polar factor of
    # right = [(1, 0), (1/2, sqrt(3)/2)] has Q = root of [[1, 1/2], [1/2, 1]], with
    # Q_11 = Q_22 = (sqrt(3/2) + sqrt(1/2)) / 2; the outputs are equal, P = [[1, 1], [1, 1]] /
    # sqrt(2), and U P^-1 = u / sqrt(2) each. So (P * Q) c = s with s = (1, 1) and, by symmetry,
    # c = sqrt(2) / (Q_11 + Q_12) = sqrt(2) / sqrt(3/2), which is 2 / sqrt(3)
    first, second = torch.zeros(2, 2), torch.zeros(2, 2)
    first[0, 0] = 1.0
    second[0] = torch.tensor([0.5, 3**0.5 / 2])
    merged = seme_directions(torch.zeros(2, 2), [first, second])
    # the first row is c / sqrt(2) times the sum of the orthogonal inputs, along (first + second)
    along = (first + second)[0] / 3**0.5
    expected = 2 / 3**0.5 * along
    assert torch.allclose(merged[0], expected, atol=1e-6)
    # and so each source's direction has its value: u^T M v = 1
    assert merged[0] @ first[0] == pytest.approx(1.0, abs=1e-6)
    assert merged[0] @ second[0] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("shape", [(20, 30), (31, 20), (24, 24)])
@pytest.mark.parametrize("n_sources", [2, 3, 5])
def test_merge_follows_the_formula(shape, n_sources):
    pivot, sources = random_models(shape, n_sources)
    merged = seme_directions(pivot, sources)
    assert torch.allclose(merged.double(), formula(pivot, sources), atol=1e-5)


def test_no_kept_direction_is_shortened():
    # leading directions of sources that share some of them; random ones may be opposed
    rng = torch.Generator().manual_seed(1)
    pivot = torch.randn(40, 60, generator=rng)
    shared = torch.randn(40, 4, generator=rng) @ torch.randn(4, 60, generator=rng)
    own = [torch.randn(40, 2, generator=rng) @ torch.randn(2, 60, generator=rng) for _ in "abc"]
    sources = [pivot + 0.01 * (shared + part) for part in own]
    left, values, right = leading(pivot, sources)
    merged = (seme_directions(pivot, sources) - pivot).double()
    found = torch.einsum("mk,mn,nk->k", left, merged, right)
    assert torch.all(found[values > 1e-3] > values[values > 1e-3] - 1e-4)


def test_row_of_a_token_is_the_sum_of_orthogonal_and_the_mean_of_equal_changes():
    sources = [torch.tensor([[2.0, 0.0], [3.0, 1.0]]), torch.tensor([[0.0, 1.0], [3.0, 1.0]])]
    merged = merge_head(torch.zeros(2, 2), sources)
    assert torch.allclose(merged, torch.tensor([[2.0, 1.0], [3.0, 1.0]]), atol=1e-6)


def test_row_of_a_token_keeps_the_projection_on_every_source():
    # changes (1, 0) and (1, 1) / sqrt(2) of equal length: weights 1 / (1 + cos 45 degrees)
    root = 0.5**0.5
    sources = [torch.tensor([[1.0, 0.0]]), torch.tensor([[root, root]])]
    merged = merge_head(torch.zeros(1, 2), sources)
    expected = torch.tensor([[1 + root, root]]) / (1 + root)
    assert torch.allclose(merged, expected, atol=1e-6)


def test_opposed_rows_are_added_at_most_once():
    # an angle of 120 degrees asks for weights 1 / (1 + cos) = 2; the bound is 1
    sources = [torch.tensor([[1.0, 0.0]]), torch.tensor([[-0.5, 3**0.5 / 2]])]
    merged = merge_head(torch.zeros(1, 2), sources)
    assert torch.allclose(merged, torch.tensor([[0.5, 3**0.5 / 2]]), atol=1e-6)


def test_rows_of_many_tokens_follow_scipy():
    pivot, sources = random_models((5000, 8), 4)
    merged = merge_head(pivot, sources)
    for row in (0, 4095, 4096, 4999):
        changes = torch.stack([(s[row] - pivot[row]).double() for s in sources]).numpy()
        root = torch.linalg.cholesky(torch.from_numpy(changes @ changes.T)).numpy().T
        needed = (changes**2).sum(axis=1)
        target = torch.linalg.solve(
            torch.from_numpy(root.T.copy()), torch.from_numpy(needed)
        ).numpy()
        weights = lsq_linear(root, target, bounds=(0, 1), tol=1e-14).x
        expected = pivot[row].double() + torch.from_numpy(weights @ changes)
        assert torch.allclose(merged[row].double(), expected, atol=1e-6)


def test_solution_is_zero_where_there_is_no_direction():
    solved = bounded_solution(
        torch.tensor([[0.0, 0.0], [0.0, 2.0]]).double(), torch.tensor([0.0, 3.0]).double()
    )
    assert solved.tolist() == [0.0, pytest.approx(1.5)]


def test_one_source_is_returned():
    pivot, (source,) = random_models((20, 30), 1)
    assert torch.allclose(seme_directions(pivot, [source]), source, atol=1e-7)
    assert torch.allclose(merge_head(pivot, [source]), source, atol=1e-7)


def test_equal_sources_keep_their_leading_directions():
    pivot, (source,) = random_models((20, 30), 1)
    u, s, vt = torch.linalg.svd((source - pivot).double(), full_matrices=False)
    expected = pivot + (u[:, :10] * s[:10]) @ vt[:10]
    assert torch.allclose(seme_directions(pivot, [source] * 2).double(), expected, atol=1e-6)


def test_directions_without_a_task_are_left_out():
    # rank 1 each, in a 4 x 4 matrix that would keep 2: an SVD's second vectors are arbitrary
    one, other = torch.zeros(4, 4), torch.zeros(4, 4)
    one[0, 1], other[2, 3] = 3.0, 2.0
    merged = seme_directions(torch.zeros(4, 4), [one, other])
    assert torch.allclose(merged, one + other, atol=1e-6)


def test_nearly_equal_directions_of_other_lengths_stay_bounded():
    # an unbounded solution would be of the order of 0.1 / 1e-4
    one, other = torch.zeros(4, 4), torch.zeros(4, 4)
    one[0, 0], other[0, 0], other[0, 1] = 1.0, 1.1, 1e-4
    merged = seme_directions(torch.zeros(4, 4), [one, other])
    assert merged.abs().max() < 2.2


def test_norms_get_the_mean():
    merged = seme_directions(torch.zeros(3), [torch.ones(3), torch.full((3,), 3.0)])
    assert merged.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("name", "shape", "is_whole"),
    [("model.norm.weight", (3,), False), (HEAD, (3, 2), True), ("w", (2, 3, 4), False)],
)
def test_matrices_and_tables_are_needed_whole(name, shape, is_whole):
    assert is_two_dimensional(name, shape) == is_whole
