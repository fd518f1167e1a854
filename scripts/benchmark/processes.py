"""Run a program as a user would, and measure the whole of it: seconds and peak memory."""

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_SAMPLING_SECONDS = 0.02
_FIELD = re.compile(r"^(VmHWM|VmRSS|RssAnon):\s*(\d+) kB$", re.MULTILINE)
_TAIL = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one process and its children took."""

    seconds: float
    """From start to exit."""
    peak_rss_bytes: int
    """Largest resident memory: the kernel's peak (``VmHWM``), or where children add to it the
    largest sum seen in samples every 20 ms. A child counts from its second sample on: until it
    becomes a program of its own, it shows its parent's memory as its own."""
    peak_anon_bytes: int
    """Largest sum seen of resident memory that no file backs."""
    output: str
    """What it wrote to standard output."""


def run_measured(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]
) -> Measured:
    """Run a program to its end and measure it (Linux).

    Args:
        command: The program and its arguments.
        cwd: Working directory.
        environment: Variables added to this process' own.

    Raises:
        RuntimeError: If the program fails; the end of its output is in the message.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **environment}, stdout=out, stderr=err
        )
        rss = anon = 0
        before: set[int] = set()
        try:
            while process.poll() is None:
                family = _family(process.pid)
                seen_rss, seen_anon = _memory(
                    [one for one in family if one == process.pid or one in before]
                )
                rss, anon = max(rss, seen_rss), max(anon, seen_anon)
                before = set(family)
                _wait(process)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - start
        texts = [_whole(file) for file in (out, err)]
    if process.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {process.returncode}:\n{texts[1][-_TAIL:]}"
        )
    return Measured(seconds=seconds, peak_rss_bytes=rss, peak_anon_bytes=anon, output=texts[0])


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Sleep until the next sample, or until the process ends."""
    try:
        process.wait(_SAMPLING_SECONDS)
    except subprocess.TimeoutExpired:
        return


def _memory(family: Sequence[int]) -> tuple[int, int]:
    """Return resident and anonymous bytes of a process and its children; peaks where kept."""
    found = [_status(one) for one in family]
    now = sum(fields.get("VmRSS", 0) for fields in found)
    peaks = [fields.get("VmHWM", 0) for fields in found]
    return max(now, *peaks), sum(fields.get("RssAnon", 0) for fields in found)


def _family(pid: int) -> list[int]:
    """Return a process and all that descends from it; asks /proc, which is cheap."""
    family = [pid]
    for one in family:  # grows while it is walked
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # a thread or process that has just ended
                family += [int(child) for child in file.read_text().split()]
    return family


def _status(pid: int) -> dict[str, int]:
    """Return the kernel's memory counts of a process in bytes; none of one that has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return {}
    return {name: int(kilobytes) * 1024 for name, kilobytes in _FIELD.findall(text)}


def _whole(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
