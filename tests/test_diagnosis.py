"""Table of aligned sources."""

from seme.alignment.diagnosis import source_table
from tests.diagnostics import DIAGNOSTICS, cells


def test_source_table_has_frame_similarities_weight_and_seconds():
    # the second source: heads (0.5 + 0.1) / 2; neurons of the one layer that has them
    assert cells(source_table(DIAGNOSTICS, ["code", "small"])) == [
        ("code", "the same, ||T-I|| 0.020", "100 %", "31.6", "", "", "0.750", "0.50"),
        ("small", "other width", "95 %", "31.6 (ridge)", "0.30", "0.25", "0.250", "3.25"),
    ]


def test_caption_has_selected_and_erased_shares():
    caption = source_table(DIAGNOSTICS, ["code", "small"]).caption
    assert [word for word in caption.split() if "." in word] == ["12.5", "50.0"]


def test_source_names_are_escaped():
    assert cells(source_table(DIAGNOSTICS, ["code", "[b]small[/]"]))[1][0] == r"\[b]small\[/]"


def test_weights_are_empty_before_a_merge():
    nothing = {"selected": 0.0, "erased": 0.0, "coefficients": [0.0, 0.0]}
    table = source_table(DIAGNOSTICS | {"fusion": nothing}, ["code", "small"])
    assert [row[6] for row in cells(table)] == ["", ""]
    assert table.caption is None
