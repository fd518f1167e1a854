"""One GPU for each worker process that a launcher starts on this machine."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from eval.folders import run_lock
from eval.owner import machine_mark
from eval.run_lock import RunLock

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_PAUSE = 1.0
"""Seconds between two looks for a GPU that has become free."""
_held: list[RunLock] = []
"""Lock of this process's GPU; CUDA keeps the device that it began with."""


def visible_gpus() -> list[str]:
    """Return the GPUs of this process, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if (named := os.environ.get(_VISIBLE)) is not None:
        devices = [device.strip() for device in named.split(",")]
        n_before_invalid = devices.index("-1") if "-1" in devices else len(devices)
        return [device for device in devices[:n_before_invalid] if device]
    import torch  # noqa: PLC0415 (its modules are slow to load)

    return [str(number) for number in range(torch.cuda.device_count())]


def take_gpu(root: Path, *, say: Callable[[str], None]) -> None:
    """Take a GPU that no other worker of this machine has, and show this process no other.

    It is held until the process ends. Where all are taken it waits; without GPUs nothing happens.

    Args:
        root: The results folder; workers of sweeps into another one are not known.
        say: Called once with a sentence if it waits.
    """
    if _held or not (gpus := visible_gpus()):
        return
    is_said = False
    while True:
        for gpu in gpus:
            name = re.sub(r"[^A-Za-z0-9-]", "-", gpu)
            lock = run_lock(root, f"gpu-{machine_mark()}-{name}", about={"gpu": gpu})
            if lock.acquire(wait=False):
                _held.append(lock)
                os.environ[_VISIBLE] = gpu
                return
        if not is_said:
            say(f"waits for one of {len(gpus)} GPUs, which other workers have")
            is_said = True
        time.sleep(_PAUSE)
