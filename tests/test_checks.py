"""Range checks: accepted values, and the message of refused ones."""

import math
import re
from functools import partial

import pytest

from seme.checks import (
    check_between,
    check_choice,
    check_finite,
    check_share,
    check_switch,
    check_whole,
)


@pytest.mark.parametrize(
    ("check", "message", "good", "bad"),
    [
        (partial(check_share, "x"), r"in \(0, 1\]", [1, 1e-9],
         [0, 0.0, -0.1, 1.0001, math.nan, math.inf, "0.5", None, True]),
        (partial(check_finite, "x"), "a finite number", [-2],
         [math.nan, math.inf, -math.inf, "1", None, True, 10**400]),
        (partial(check_finite, "x", least=0), "a finite number of at least 0", [0.0],
         [-1e-9, math.inf, math.nan, True]),
        (partial(check_between, "x", low=0, high=1), r"in \[0, 1\]", [0, 1.0],
         [-0.1, 1.1, math.nan, "0", None, False]),
        (partial(check_whole, "x", least=0), "a whole number of at least 0", [0],
         [-1, 1.0, "1", None, True]),
        (partial(check_switch, "x"), "true or false", [False], [0, 1, "true", None, math.nan]),
        (partial(check_choice, "x", choices={"b", "a"}), "one of a, b", ["a"], ["c"]),
    ],
    ids=["share", "finite", "minimum", "interval", "whole", "switch", "choice"],
)  # fmt: skip
def test_values_out_of_range_are_refused_with_the_range_and_the_value(
    check, message, good, bad
):
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(
            ValueError, match=rf"^x must be {message}, got {re.escape(repr(value))}"
        ):
            check(value)


def test_numbers_whose_sum_could_be_infinite_are_refused():
    check_finite("x", -1e300)
    with pytest.raises(
        ValueError, match=r"a finite number of at most 1e\+300 in magnitude, got"
    ):
        check_finite("x", 1e308)
