import math

import pytest

from seme.checks import check_choice, check_finite, check_share


@pytest.mark.parametrize("value", [0, 0.0, -0.1, 1.0001, math.nan, math.inf, "0.5", None, True])
def test_a_share_is_a_number_above_zero_and_up_to_one(value):
    with pytest.raises(ValueError, match=r"tau must be in \(0, 1\], got "):
        check_share("tau", value)
    check_share("tau", 1)
    check_share("tau", 1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None, True])
def test_a_scale_is_a_finite_number(value):
    with pytest.raises(ValueError, match="lam must be a finite number, got "):
        check_finite("lam", value)
    check_finite("lam", -2)


def test_choices_are_listed_in_order():
    with pytest.raises(ValueError, match="scope must be one of a, b, got 'c'"):
        check_choice("scope", "c", {"b", "a"})
    check_choice("scope", "a", {"b", "a"})
