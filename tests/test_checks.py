"""Range checks: what passes, and the message of what does not."""

import math

import pytest

from seme.checks import (
    check_between,
    check_choice,
    check_finite,
    check_share,
    check_switch,
    check_whole,
)


@pytest.mark.parametrize("value", [0, 0.0, -0.1, 1.0001, math.nan, math.inf, "0.5", None, True])
def test_share_must_be_in_the_unit_interval_without_zero(value):
    with pytest.raises(ValueError, match=r"tau must be in \(0, 1\], got "):
        check_share("tau", value)
    check_share("tau", 1)
    check_share("tau", 1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None, True, 10**400])
def test_scale_must_be_finite(value):
    with pytest.raises(ValueError, match="lam must be a finite number, got "):
        check_finite("lam", value)
    check_finite("lam", -2)


@pytest.mark.parametrize("value", [-1e-9, math.inf, math.nan, True])
def test_finite_number_respects_its_minimum(value):
    with pytest.raises(ValueError, match="d must be a finite number of at least 0, got "):
        check_finite("d", value, least=0)
    check_finite("d", 0.0, least=0)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, "0", None, False])
def test_closed_interval_includes_both_ends(value):
    with pytest.raises(ValueError, match=r"t must be in \[0, 1\], got "):
        check_between("t", value, 0, 1)
    check_between("t", 0, 0, 1)
    check_between("t", 1.0, 0, 1)


@pytest.mark.parametrize("value", [-1, 1.0, "1", None, True])
def test_whole_number_refuses_floats_and_booleans(value):
    with pytest.raises(ValueError, match="n must be a whole number of at least 0, got "):
        check_whole("n", value, least=0)
    check_whole("n", 0, least=0)


@pytest.mark.parametrize("value", [0, 1, "true", None, math.nan])
def test_switch_must_be_boolean(value):
    with pytest.raises(ValueError, match="x must be true or false, got "):
        check_switch("x", value)
    check_switch("x", False)


def test_invalid_choice_lists_the_choices_sorted():
    with pytest.raises(ValueError, match="scope must be one of a, b, got 'c'"):
        check_choice("scope", "c", {"b", "a"})
    check_choice("scope", "a", {"b", "a"})
