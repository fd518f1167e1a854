import threading
import time

import pytest
import torch

from eval import meter
from eval.meter import metered

MIB = 2**20


@pytest.fixture
def wait_for_two_samples(monkeypatch):
    """Waits until two samples of the memory were taken."""
    observed, resident = threading.Semaphore(0), meter._resident

    def observe():
        sample = resident()
        observed.release()
        return sample

    def wait():
        while observed.acquire(blocking=False):
            pass
        assert observed.acquire(timeout=10)  # may have begun before
        assert observed.acquire(timeout=10)

    monkeypatch.setattr(meter, "_resident", observe)
    return wait


def touch(n_mib):
    return torch.ones(n_mib * MIB, dtype=torch.uint8)[0].item()


def test_peak_rss_includes_freed_memory():
    with metered("cpu") as stage:
        touch(64)
    grown = stage.cost.peak_rss_bytes - stage.cost.base_rss_bytes
    assert 48 * MIB < grown < 100 * MIB
    assert stage.cost.peak_gpu_bytes is None


def test_peak_rss_is_reset_between_stages():
    with metered("cpu") as large:
        touch(96)
    with metered("cpu") as small:
        touch(8)
    assert small.cost.peak_rss_bytes < large.cost.peak_rss_bytes - 48 * MIB


def test_anonymous_memory_is_sampled_during_the_stage(wait_for_two_samples):
    with metered("cpu") as stage:
        kept = torch.ones(64 * MIB, dtype=torch.uint8)
        wait_for_two_samples()
        del kept
    assert stage.cost.peak_anon_bytes >= 48 * MIB


def test_seconds_are_wall_clock():
    with metered("cpu") as stage:
        time.sleep(0.05)
    assert 0.05 <= stage.cost.seconds < 5


def test_failed_stage_has_a_cost():
    with pytest.raises(RuntimeError, match="inner"), metered("cpu") as stage:
        raise RuntimeError("inner")
    assert stage.cost.seconds >= 0
    with metered("cpu"):  # and the next one can start
        pass


def test_stages_cannot_be_nested():
    with metered("cpu"), pytest.raises(ValueError, match="cannot be nested"):  # noqa: SIM117
        with metered("cpu"):
            pass


def test_the_cost_of_a_running_stage_is_refused():
    with metered("cpu") as stage, pytest.raises(ValueError, match="when its with block has"):
        _ = stage.cost


def test_peak_rss_falls_back_to_sampling(wait_for_two_samples, monkeypatch, tmp_path):
    monkeypatch.setattr(meter, "_CLEAR_REFS", tmp_path)  # a folder cannot be written to
    with metered("cpu") as stage:
        kept = torch.ones(64 * MIB, dtype=torch.uint8)
        wait_for_two_samples()
        del kept
    assert stage.cost.source == "sampled"
    assert stage.cost.peak_rss_bytes - stage.cost.base_rss_bytes > 48 * MIB
