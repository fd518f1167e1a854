import math

import pytest
import torch

from seme.kernels.conversion import bit_patterns, is_finite, upcast
from seme.kernels.reductions import round_merged


def every_bfloat16():
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)


def test_finite_bfloat16_survives_upcast_and_rounding():
    values = every_bfloat16()
    values = values[values.float().isfinite()]
    (wide,), finite = upcast(bit_patterns([values]), 0, len(values))
    assert finite == [True]
    assert torch.equal(wide.view(torch.int32), values.float().view(torch.int32))
    rounded, lost, changed = round_merged(wide, wide)
    assert torch.equal(rounded.view(torch.int16), values.view(torch.int16))
    assert (lost, changed) == (0, 0)


def test_slices_of_several_models_are_upcast_to_rows():
    models = [torch.arange(k, k + 100, dtype=torch.float32).bfloat16() for k in range(3)]
    rows, finite = upcast(bit_patterns(models), 10, 30)
    assert finite == [True] * 3
    assert torch.equal(rows, torch.stack(models).float()[:, 10:30])
    models[1][29] = float("nan")
    assert upcast(bit_patterns(models), 10, 30)[1] == [True, False, True]
    assert upcast(bit_patterns(models), 10, 29)[1] == [True] * 3


def test_rounding_equals_torch_ties_to_even():
    rng = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 0x7F7F0000, (100_000,), generator=rng, dtype=torch.int32)
    ties = torch.arange(0, 0x7F7F0000, 1 << 16, dtype=torch.int32) + (1 << 15)
    for patterns in (bits, ties, ties + 1, ties - 1):
        values = patterns.view(torch.float32)
        for signed in (values, -values):
            rounded, lost, _ = round_merged(signed, signed)
            expected = signed.bfloat16()
            assert torch.equal(rounded.view(torch.int16), expected.view(torch.int16))
            exact = float(((expected.double() - signed.double()) ** 2).sum())
            assert lost == pytest.approx(exact, rel=1e-12)


def test_overflow_rounds_to_infinity():
    largest = torch.tensor([torch.finfo(torch.float32).max])
    rounded, lost, changed = round_merged(largest, torch.zeros(1))
    assert rounded.isinf().all()
    assert math.isinf(lost)
    assert math.isfinite(changed)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_one_non_finite_value_is_detected(value, place):
    numbers = torch.linspace(-1, 1, 1000)
    assert is_finite(numbers)
    numbers[place] = value
    assert not is_finite(numbers)
    assert upcast(bit_patterns([numbers.bfloat16()]), 0, 1000)[1] == [False]


def test_empty_tensors_are_finite():
    assert is_finite(torch.empty(0))
    rows, finite = upcast(bit_patterns([torch.empty(0, dtype=torch.bfloat16)]), 0, 0)
    assert (tuple(rows.shape), finite) == ((1, 0), [True])
