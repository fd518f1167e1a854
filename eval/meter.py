"""Time and memory of one stage of a run."""

import ctypes
import gc
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from eval.records import StageCost

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_STATM = Path("/proc/self/statm")
_SAMPLING_SECONDS = 0.01
_one_at_a_time = threading.Lock()


class Stage:
    """A stage being measured."""

    def __init__(self) -> None:
        self._cost: StageCost | None = None

    @property
    def cost(self) -> StageCost:
        """Time and memory of the stage.

        Raises:
            ValueError: If the stage is still running.
        """
        if self._cost is None:
            raise ValueError("the cost of a stage is known when its with block has ended")
        return self._cost


@contextmanager
def metered(device: str) -> Iterator[Stage]:
    """Measure the block: wall-clock seconds and peak memory, also when it raises.

    Peak RSS is the kernel's own (``VmHWM``, reset before the block through
    ``/proc/self/clear_refs``) or, where the kernel has none, the largest of samples taken every
    10 ms. Anonymous memory is always sampled.

    Args:
        device: A torch device; ``cuda...`` adds the peak that torch allocated there.

    Yields:
        The stage; its ``cost`` is known after the block.

    Raises:
        ValueError: If another stage is being measured: the kernel keeps one peak a process.
    """
    if not _one_at_a_time.acquire(blocking=False):
        raise ValueError("a stage is being measured already; stages cannot be nested")
    stage = Stage()
    try:
        _settle()
        base, from_kernel = _resident()[0], _reset_peak()
        _reset_gpu_peak(device)
        sampler, start = _Sampler(), time.perf_counter()
        try:
            yield stage
        finally:
            gpu = _gpu_peak(device)
            seconds = time.perf_counter() - start
            sampler.stop()
            stage._cost = StageCost(
                seconds=seconds,
                peak_rss_bytes=max(_kernel_peak() if from_kernel else sampler.peak_rss, base),
                base_rss_bytes=base,
                peak_anon_bytes=sampler.peak_anon,
                peak_gpu_bytes=gpu,
                source="VmHWM" if from_kernel else "sampled",
            )
    finally:
        _one_at_a_time.release()


class _Sampler:
    """Thread that samples memory and keeps the peaks."""

    def __init__(self) -> None:
        self.peak_rss, self.peak_anon = _resident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._ended.wait(_SAMPLING_SECONDS):
            self._sample()

    def _sample(self) -> None:
        rss, anon = _resident()
        self.peak_rss = max(self.peak_rss, rss)
        if anon is not None and self.peak_anon is not None:
            self.peak_anon = max(self.peak_anon, anon)


def _settle() -> None:
    """Return freed memory to the system, so that it does not count for this stage."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)


def _resident() -> tuple[int, int | None]:
    """RSS and anonymous RSS in bytes; the latter None where the system has no such count."""
    if not _STATM.exists():
        return int(psutil.Process().memory_info().rss), None
    _, resident, shared, *_ = (int(n) for n in _STATM.read_text(encoding="ascii").split())
    page = os.sysconf("SC_PAGE_SIZE")
    return resident * page, (resident - shared) * page


def _reset_peak() -> bool:
    """Reset the kernel's peak RSS; False where that is not possible."""
    try:
        _CLEAR_REFS.write_text("5", encoding="ascii")
        return _kernel_peak() > 0
    except OSError:
        return False


def _kernel_peak() -> int:
    """Peak RSS in bytes by the kernel; 0 if it keeps none."""
    status = _STATUS.read_text(encoding="ascii")
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return int(peak[1]) * 1024 if peak else 0


def _reset_gpu_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)


def _gpu_peak(device: str) -> int | None:
    if not device.startswith("cuda"):
        return None
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device))
