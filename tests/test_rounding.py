"""Rounding to the output dtype, and the measured rounding loss."""

import pytest
import torch

from seme.rounding import Raw, certain, is_finite, round_merged, round_to, share_lost, summed


def test_round_to_rounds_to_the_nearest_value():
    # bfloat16 keeps 8 bits: between 256 and 512 only even numbers
    rounded = round_to(torch.bfloat16, torch.tensor([257.5, 258.5]))
    assert rounded.tolist() == [258.0, 258.0]


def test_round_to_refuses_overflow():
    with pytest.raises(ValueError, match=r"magnitude 100000 is too large for torch\.float16"):
        round_to(torch.float16, torch.tensor([1.0, -1e5]))


CPU = torch.device("cpu")


@pytest.mark.usefixtures("code_path")
def test_rounding_loss_is_relative_to_the_change():
    # change [3, 4] in one tensor and [12] in the other: sqrt(25 + 144) = 13; lost [0, 1]: 1
    pivot, exact = torch.tensor([255.0, 253.0]), torch.tensor([258.0, 257.0])
    first = round_merged(torch.bfloat16, exact=exact, pivot=pivot)
    assert first.values.dtype == torch.bfloat16
    assert first.values.tolist() == [258.0, 256.0]
    twelve = torch.tensor([12.0])
    second = round_merged(torch.float32, exact=twelve, pivot=torch.zeros(1))
    assert (first[1:], second) == ((1.0, 25.0), (twelve, 0.0, 144.0))
    assert summed([first[1:], second[1:]]) == (1.0, 169.0)
    assert share_lost([first[1:], second[1:]]) == 1 / 13


def test_rounding_loss_of_no_change_is_zero():
    same = torch.tensor([256.0])
    assert share_lost([round_merged(torch.bfloat16, exact=same, pivot=same)[1:]]) == 0.0


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_changes_with_squares_beyond_float32_are_measured(size):
    exact = torch.full((1000,), size)
    changed = round_merged(torch.float32, exact=exact, pivot=torch.zeros(1000)).changed
    assert changed == pytest.approx(1000 * size * size, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_merge_is_refused(dtype, value):
    exact = torch.tensor([1.0, value, 2.0])
    with pytest.raises(ValueError, match="the merge method returned NaN or inf"):
        round_merged(dtype, exact=exact, pivot=torch.zeros(3))


def test_overflow_of_the_output_dtype_is_refused():
    largest = torch.finfo(torch.float32).max  # rounds to bfloat16's infinity
    for dtype, value in ((torch.float16, 1e5), (torch.bfloat16, largest)):
        with pytest.raises(ValueError, match=rf"is too large for {dtype}"):
            round_merged(dtype, exact=torch.tensor([0.0, value]), pivot=torch.zeros(2))


@pytest.mark.usefixtures("code_path")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_dtype_is_upcast_with_non_finite_values_flagged(dtype):
    values = torch.linspace(-3, 5, 1000).to(dtype)
    other = values.flip(0).clone()
    raw = Raw([values, other], CPU)
    rows, finite = raw.upcast(100, 900)
    assert finite == [True, True]
    assert torch.equal(rows, torch.stack([values, other]).float()[:, 100:900])
    other[700] = float("inf")
    assert raw.upcast(100, 900)[1] == [True, False]


def test_models_of_different_dtypes_are_upcast_together():
    values = torch.linspace(-3, 5, 100).bfloat16()
    rows, finite = Raw([values, values.double()], CPU).upcast(0, 100)
    assert finite == [True, True]
    assert torch.equal(rows, values.float().expand(2, -1))


def test_values_beyond_float32_are_flagged():
    raw = Raw([torch.tensor([1e300], dtype=torch.float64)], CPU)
    assert raw.upcast(0, 1)[1] == [False]


def test_large_values_with_an_infinite_sum_are_finite():
    assert is_finite(torch.full((10,), 3e38))
    assert not is_finite(torch.tensor([3e38, 3e38, float("inf")]))


def test_certain_digits_are_nine_in_all_nested_numbers():
    exact = {"a": [0.1 + 0.2, {"b": (1e-30 / 3, 5, None, "x", True)}]}
    assert certain(exact) == {"a": [0.3, {"b": [3.33333333e-31, 5, None, "x", True]}]}
    assert certain(38.945143152682164) == certain(38.94514315268212)
