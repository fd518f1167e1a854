"""Matrices nearest to an operator between two frames."""

import math

import pytest
import torch

from seme.alignment.residual_map import (
    centred_polar_factor,
    distance_from_identity,
    least_squares,
    polar_factor,
)

WIDTH = 8


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def rotation(width=WIDTH, seed=1):
    return torch.linalg.qr(random(width, width, seed=seed))[0]


def identity(width=WIDTH):
    return torch.eye(width, dtype=torch.float64)


def subtract_mean(width):
    return identity(width) - 1 / width


def test_a_polar_factor_is_worked_out_by_hand():
    # [[0, -2], [3, 0]] = [[0, -1], [1, 0]] @ diag(3, 2)
    found = polar_factor(torch.tensor([[0.0, -2.0], [3.0, 0.0]]))
    assert torch.allclose(found, torch.tensor([[0.0, -1.0], [1.0, 0.0]]), atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (8, 5), (5, 8)])
def test_the_polar_factor_is_semi_orthogonal_and_leaves_a_symmetric_rest(shape):
    operator = random(*shape)
    found = polar_factor(operator)
    small = found.T @ found if shape[0] >= shape[1] else found @ found.T
    assert torch.allclose(small, identity(min(shape)), atol=1e-12)
    rest = found.T @ operator
    assert torch.allclose(rest, rest.T, atol=1e-12)
    assert torch.linalg.eigvalsh(rest).min() > -1e-12


@pytest.mark.parametrize("condition", [1.0, 9.0, 900.0, 1100.0, 1e8])
@pytest.mark.parametrize("shape", [(8, 8), (8, 5), (5, 8)])
def test_the_polar_factor_is_that_of_the_svd_whatever_the_condition(shape, condition):
    left, right = (rotation(n, seed=n)[:, : min(shape)] for n in shape)
    singular = torch.logspace(0, -math.log10(condition), min(shape), dtype=torch.float64)
    found = polar_factor((left * singular) @ right.T)
    assert torch.allclose(found, left @ right.T, atol=1e-14 * max(condition, 1e4) ** 1.1)
    small = found.T @ found if shape[0] >= shape[1] else found @ found.T
    assert torch.allclose(small, identity(min(shape)), atol=1e-9)


def test_no_orthogonal_matrix_is_nearer_than_the_polar_factor():
    operator = random(WIDTH, WIDTH)
    nearest = torch.linalg.norm(polar_factor(operator) - operator)
    others = [torch.linalg.norm(rotation(seed=n) - operator) for n in range(2, 20)]
    assert nearest < min(others)


@pytest.mark.parametrize("n_seen", [0, 1, 5, 7])
def test_directions_the_operator_does_not_see_do_not_turn(n_seen):
    seen = random(WIDTH, n_seen)
    assert torch.allclose(polar_factor(seen @ seen.T), identity(), atol=1e-12)


def test_the_unseen_turn_as_little_as_the_seen_allow():
    # axis 0 goes to axis 1, so that axis 1 cannot stay; the nearest turn takes it to axis 0
    operator = torch.zeros(3, 3).double()
    operator[1, 0] = 2.0
    expected = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).double()
    found = polar_factor(operator).abs()
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
def test_unseen_directions_between_widths_keep_their_axes(shape):
    operator = torch.zeros(*shape).double()
    operator[0, 0] = operator[1, 1] = 1.0
    assert torch.allclose(polar_factor(operator), torch.eye(*shape).double(), atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 8), (8, 5), (5, 8)])
def test_a_centred_map_keeps_the_ones_direction_and_commutes_with_the_mean(shape):
    found = centred_polar_factor(random(*shape))
    ones = [torch.ones(width).double() / width**0.5 for width in shape]
    assert torch.allclose(found @ ones[1], ones[0], atol=1e-12)
    assert torch.allclose(
        found @ subtract_mean(shape[1]), subtract_mean(shape[0]) @ found, atol=1e-12
    )
    small = found.T @ found if shape[0] >= shape[1] else found @ found.T
    assert torch.allclose(small, identity(min(shape)), atol=1e-12)


def test_a_centred_map_is_the_polar_factor_of_the_operator_without_means():
    operator = random(WIDTH, WIDTH)
    centred = subtract_mean(WIDTH) @ operator @ subtract_mean(WIDTH)
    expected = polar_factor(centred + 1 / WIDTH)
    assert torch.allclose(centred_polar_factor(operator), expected, atol=1e-10)


def test_the_centred_map_of_a_symmetric_operator_is_the_identity():
    operator = random(20, WIDTH)
    assert torch.allclose(centred_polar_factor(operator.T @ operator), identity(), atol=1e-12)


def test_least_squares_is_the_library_s_solution():
    pivot, source = random(40, WIDTH), random(40, 5, seed=2)
    expected = torch.linalg.lstsq(pivot, source).solution
    found = least_squares(pivot.T @ pivot, pivot.T @ source)
    assert torch.allclose(found, expected, atol=1e-10)


def test_least_squares_leaves_directions_without_a_token_as_they_are():
    few = random(3, WIDTH)
    assert torch.allclose(least_squares(few.T @ few, few.T @ few), identity(), atol=1e-10)


@pytest.mark.parametrize(
    ("transform", "distance"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], 0.0),
        ([[0.0, -1.0], [1.0, 0.0]], 2**0.5),  # two axes, each moved by sqrt(2)
        ([[-1.0, 0.0], [0.0, 1.0]], 2**0.5),  # one axis moved by 2, the other not
    ],
)
def test_the_distance_is_the_root_mean_square_move_of_an_axis(transform, distance):
    assert distance_from_identity(torch.tensor(transform)) == pytest.approx(distance)
