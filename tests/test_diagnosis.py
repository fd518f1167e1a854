"""Seconds of the stages of an alignment, and the table of aligned sources."""

import pytest

from seme.alignment import diagnosis
from seme.alignment.diagnosis import collect_seconds, source_table, stage
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


@pytest.fixture
def fixed_clock(monkeypatch):
    clock = iter([0.0, 1.5, 10.0, 10.25, 20.0, 21.0])
    monkeypatch.setattr(diagnosis.time, "perf_counter", lambda: next(clock))


@pytest.mark.usefixtures("fixed_clock")
def test_seconds_of_a_stage_are_summed():
    seconds = {}
    with collect_seconds(seconds):
        for name in ("map", "map", "units"):
            with stage(name):
                pass
    assert seconds == {"map": 1.75, "units": 1.0}


@pytest.mark.usefixtures("fixed_clock")
def test_stages_are_collected_by_the_innermost_collector():
    outer, inner = {}, {}
    with stage("map"):
        pass
    with collect_seconds(outer):
        with collect_seconds(inner), stage("map"):
            pass
        with stage("units"):
            pass
    assert (outer, inner) == ({"units": 1.0}, {"map": 0.25})
