"""Rounding to the output dtype, and the measure of what it loses."""

import pytest
import torch

from seme.rounding import RoundingLoss, is_finite, round_to, rounding_error


def test_rounding_goes_to_the_nearest_value_of_the_dtype():
    # bfloat16 keeps 8 bits: between 256 and 512 only even numbers
    rounded = round_to(torch.bfloat16, torch.tensor([257.5, 258.5]))
    assert rounded.tolist() == [258.0, 258.0]


def test_a_value_too_large_for_the_dtype_is_refused():
    with pytest.raises(ValueError, match=r"magnitude 100000 is too large for torch\.float16"):
        round_to(torch.float16, torch.tensor([1.0, -1e5]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_is_found_wherever_it_stands(value):
    for place in range(3):
        tensor = torch.zeros(3)
        tensor[place] = value
        assert not is_finite(tensor)
    assert is_finite(torch.zeros(3))
    assert is_finite(torch.zeros(0, 3))


def test_the_loss_is_the_share_of_the_change_that_rounding_took():
    # change [3, 4] in one tensor and [12] in the other: sqrt(25 + 144) = 13; lost [0, 1]: 1
    pivot, exact = torch.tensor([255.0, 253.0]), torch.tensor([258.0, 257.0])
    rounded = torch.tensor([258.0, 256.0]).bfloat16()
    first = rounding_error(exact=exact, rounded=rounded, pivot=pivot)
    twelve = torch.tensor([12.0])
    second = rounding_error(exact=twelve, rounded=twelve, pivot=torch.zeros(1))
    assert (first, second) == ((1.0, 25.0), (0.0, 144.0))
    loss = RoundingLoss()
    loss.add([first, second])
    assert loss.share == 1 / 13


def test_nothing_changed_is_nothing_lost():
    same = torch.tensor([257.0])
    loss = RoundingLoss()
    loss.add([rounding_error(exact=same, rounded=same, pivot=same)])
    assert loss.share == 0.0


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_changes_whose_squares_float32_cannot_hold_are_measured(size):
    exact = torch.full((1000,), size)
    _, changed = rounding_error(exact=exact, rounded=exact, pivot=torch.zeros(1000))
    assert changed == pytest.approx(1000 * size * size, rel=1e-6)


def test_large_finite_numbers_are_finite_though_their_sum_is_not():
    assert is_finite(torch.full((10,), 3e38))
    assert not is_finite(torch.tensor([3e38, 3e38, float("inf")]))
