"""Seconds of the stages of an alignment, and the table of aligned sources."""

import pytest

from seme.alignment import diagnosis
from seme.alignment.diagnosis import collect_seconds, source_table, stage
from tests.diagnostics import DIAGNOSTICS, cells


def test_a_row_per_source_has_frame_similarities_weight_and_seconds():
    # the second source: heads (0.5 + 0.1) / 2; neurons of the one layer that has them
    assert cells(source_table(DIAGNOSTICS, ["code", "small"])) == [
        ("code", "the same, ||T-I|| 0.020", "100 %", "31.6", "", "", "0.750", "0.50"),
        ("small", "other width", "95 %", "31.6 (ridge)", "0.30", "0.25", "0.250", "3.25"),
    ]


def test_the_caption_has_the_shares_selected_and_erased():
    caption = source_table(DIAGNOSTICS, ["code", "small"]).caption
    assert [word for word in caption.split() if "." in word] == ["12.5", "50.0"]


def test_names_are_no_markup():
    assert cells(source_table(DIAGNOSTICS, ["code", "[b]small[/]"]))[1][0] == r"\[b]small\[/]"


def test_before_a_merge_there_are_no_weights():
    nothing = {"selected": 0.0, "erased": 0.0, "coefficients": [0.0, 0.0]}
    table = source_table(DIAGNOSTICS | {"fusion": nothing}, ["code", "small"])
    assert [row[6] for row in cells(table)] == ["", ""]
    assert table.caption is None


@pytest.fixture
def ticks(monkeypatch):
    clock = iter([0.0, 1.5, 10.0, 10.25, 20.0, 21.0])
    monkeypatch.setattr(diagnosis.time, "perf_counter", lambda: next(clock))


@pytest.mark.usefixtures("ticks")
def test_seconds_of_a_stage_add_up():
    seconds = {}
    with collect_seconds(seconds):
        for name in ("map", "map", "units"):
            with stage(name):
                pass
    assert seconds == {"map": 1.75, "units": 1.0}


@pytest.mark.usefixtures("ticks")
def test_a_stage_outside_a_collector_is_dropped_and_inner_collectors_take_their_own():
    outer, inner = {}, {}
    with stage("map"):
        pass
    with collect_seconds(outer):
        with collect_seconds(inner), stage("map"):
            pass
        with stage("units"):
            pass
    assert (outer, inner) == ({"units": 1.0}, {"map": 0.25})
