"""Rounding to the output dtype, and the measure of what it loses."""

import pytest
import torch

from seme.rounding import RoundingLoss, is_finite, round_to, squared_distance


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
    loss = RoundingLoss()
    pivot, exact = torch.tensor([255.0, 253.0]), torch.tensor([258.0, 257.0])
    loss.add(exact=exact, rounded=torch.tensor([258.0, 256.0]).bfloat16(), pivot=pivot)
    loss.add(exact=torch.tensor([12.0]), rounded=torch.tensor([12.0]), pivot=torch.zeros(1))
    assert loss.share == 1 / 13


def test_nothing_changed_is_nothing_lost():
    same = torch.tensor([257.0])
    loss = RoundingLoss()
    loss.add(exact=same, rounded=same.bfloat16(), pivot=same)
    assert loss.share == 0.0


def test_tiny_differences_are_summed_without_underflow_over_several_blocks():
    n = (1 << 20) + 5
    distance = squared_distance(torch.full((n,), 1e-30), torch.zeros(n))
    assert distance == pytest.approx(n * 1e-60, rel=1e-6)
