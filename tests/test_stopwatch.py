import pytest

from seme.alignment import stopwatch
from seme.alignment.stopwatch import collect_seconds, stage


@pytest.fixture
def fixed_clock(monkeypatch):
    clock = iter([0.0, 1.5, 10.0, 10.25, 20.0, 21.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(clock))


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
