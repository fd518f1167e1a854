import pytest

from eval.statistics.scores import Estimate
from eval.tables import (
    alternatives,
    leaves,
    markdown_table,
    mib,
    percent,
    points,
    seconds,
    with_error,
)


def test_percent_is_never_minus_zero():
    assert percent(0.12345) == "12.35"
    assert percent(-0.00001) == "0.00"
    assert percent(0.5, 0) == "50"


def test_points_have_a_sign():
    assert points(0.0123) == "+1.23"
    assert points(-0.0123, 1) == "-1.2"
    assert points(-0.00001) == points(0.0) == "+0.00"


def test_estimate_has_one_standard_error():
    estimate = Estimate(value=0.39331, stderr=0.00479)
    assert with_error(estimate) == "39.33 ± 0.48"
    assert with_error(estimate, points, 1) == "+39.3 ± 0.5"
    assert with_error(None) == ""


def test_unmeasured_costs_are_empty():
    assert (seconds(1.234), seconds(11.25, 0), seconds(None)) == ("1.23", "11", "")
    assert (mib(3 * 2**20), mib(2**19, 1), mib(None)) == ("3", "0.5", "")


@pytest.mark.parametrize(
    ("values", "text"), [((), "none"), ((100,), "100"), ((100, 200), "100 or 200")]
)
def test_alternatives_are_joined_by_or(values, text):
    assert alternatives(values) == text


def test_leaves_are_named_by_path_with_flat_lists_as_leaves():
    value = {
        "a": {"b": 1, "empty": {}},
        "list": [1, 2],
        "models": [{"name": "x"}, {"name": "y"}],
    }
    assert dict(leaves(value)) == {
        "a.b": 1,
        "list": [1, 2],
        "models.0.name": "x",
        "models.1.name": "y",
    }
    assert list(leaves("bare")) == [("", "bare")]


def test_pipes_and_newlines_in_cells_are_escaped():
    assert markdown_table(("a", "b|c"), [("1\n2", "3")]) == (
        "| a | b\\|c |\n| --- | --- |\n| 1 2 | 3 |"
    )
