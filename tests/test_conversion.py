import pytest
import torch

from seme.kernels.conversion import is_finite, round_to_bfloat16, widen


def every_bfloat16():
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)


def test_every_finite_bfloat16_is_widened_and_rounds_back_to_itself():
    values = every_bfloat16()
    values = values[values.float().isfinite()]
    wide = torch.empty(len(values))
    assert widen(values, wide)
    assert torch.equal(wide.view(torch.int32), values.float().view(torch.int32))
    rounded, again = round_to_bfloat16(wide)
    assert torch.equal(rounded.view(torch.int16), values.view(torch.int16))
    assert torch.equal(again, wide)


def test_numbers_round_as_torch_rounds_them_ties_to_even():
    rng = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 0x7F7F0000, (100_000,), generator=rng, dtype=torch.int32)
    ties = torch.arange(0, 0x7F7F0000, 1 << 16, dtype=torch.int32) + (1 << 15)
    for patterns in (bits, ties, ties + 1, ties - 1):
        values = patterns.view(torch.float32)
        for signed in (values, -values):
            rounded, again = round_to_bfloat16(signed)
            expected = signed.bfloat16()
            assert torch.equal(rounded.view(torch.int16), expected.view(torch.int16))
            assert torch.equal(again, expected.float())


def test_a_number_too_large_rounds_to_infinity():
    largest = torch.tensor([torch.finfo(torch.float32).max])
    assert round_to_bfloat16(largest)[0].isinf().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_one_number_that_is_not_finite_is_told(value, place):
    numbers = torch.linspace(-1, 1, 1000)
    assert is_finite(numbers)
    numbers[place] = value
    assert not is_finite(numbers)
    assert not widen(numbers.bfloat16(), torch.empty(1000))


def test_no_numbers_are_finite():
    assert is_finite(torch.empty(0))
    assert widen(torch.empty(0, dtype=torch.bfloat16), torch.empty(0))
