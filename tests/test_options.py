"""Options of SeMe's alignment."""

import pytest

from seme.alignment.options import AlignmentOptions
from tests.seme_merges import ALIGNMENT


def test_mapping_becomes_options():
    options = AlignmentOptions.from_mapping({**ALIGNMENT, "refine": 1})
    assert (options.refine, options.projection, options.identity_tolerance) == (
        1,
        "orthogonal",
        0.1,
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("projection", "polar", "one of cosine, least_squares, orthogonal, got 'polar'"),
        ("anchors", "tail", "one of activations, both, head, got 'tail'"),
        ("match_units", "maybe", "one of always, auto, never, got 'maybe'"),
        ("refine", -1, "a whole number of at least 0, got -1"),
        ("refine", 1.5, "a whole number of at least 0, got 1.5"),
        ("identity_tolerance", -0.1, "a finite number of at least 0, got -0.1"),
        ("identity_tolerance", float("nan"), "a finite number of at least 0, got nan"),
    ],
)
def test_out_of_range_option_is_refused(key, value, message):
    with pytest.raises(ValueError, match=rf"^alignment\.{key} must be {message}"):
        AlignmentOptions.from_mapping({**ALIGNMENT, key: value})


def test_unknown_option_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"refined; did you mean alignment\.refine\?$"):
        AlignmentOptions.from_mapping({**ALIGNMENT, "refined": 1})


def test_a_missing_option_is_named():
    with pytest.raises(ValueError, match=r"got none for anchors, refine$"):
        AlignmentOptions.from_mapping(
            {key: ALIGNMENT[key] for key in ALIGNMENT if key not in ("anchors", "refine")}
        )


@pytest.mark.parametrize("value", [None, "orthogonal", ["orthogonal"]])
def test_non_mapping_options_are_refused(value):
    with pytest.raises(ValueError, match=r"alignment must be a mapping of anchors, .*, got "):
        AlignmentOptions.from_mapping(value)
