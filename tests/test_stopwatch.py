import pytest

from seme.alignment import stopwatch
from seme.alignment.stopwatch import Stopwatch


def test_seconds_of_a_stage_add_up_and_the_result_comes_through(monkeypatch):
    ticks = iter([0.0, 1.5, 10.0, 10.25, 20.0, 21.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(ticks))
    watch = Stopwatch()
    assert watch.time("map", lambda: "T") == "T"
    assert watch.time("map", lambda: 2) == 2
    watch.time("units", list)
    assert watch.seconds == {"map": pytest.approx(1.75), "units": pytest.approx(1.0)}
