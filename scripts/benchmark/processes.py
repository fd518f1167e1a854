"""Run a program as a process and measure seconds and peak memory, children included."""

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

_SAMPLING_SECONDS = 0.1
_FIELD = re.compile(r"^(VmHWM|VmRSS|RssAnon):\s*(\d+) kB$", re.MULTILINE)
_TAIL = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Cost of one process and its children."""

    seconds: float
    """Wall time from start to exit."""
    peak_rss_bytes: int
    """Peak RSS: the kernel's peak (``VmHWM``), or the largest sum over process and children in
    samples every 100 ms, whichever is larger. A child counts from its second sample on: between
    fork and exec it reports its parent's memory as its own."""
    peak_anon_bytes: int
    """Largest sampled sum of anonymous resident memory."""
    output: str
    """Standard output."""


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
        texts = [_text_of(file) for file in (out, err)]
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
    """Return resident (the kernel's peak if larger) and anonymous bytes of processes."""
    statuses = [_status(one) for one in family]
    now = sum(fields.get("VmRSS", 0) for fields in statuses)
    peaks = [fields.get("VmHWM", 0) for fields in statuses]
    return max(now, *peaks), sum(fields.get("RssAnon", 0) for fields in statuses)


def _family(pid: int) -> list[int]:
    """Return a process and its descendants, from /proc."""
    family = [pid]
    for one in family:  # grows while it is walked
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # a thread or process that has just ended
                family += [int(child) for child in file.read_text().split()]
    return family


def _status(pid: int) -> dict[str, int]:
    """Return the kernel's memory counts of a process in bytes; empty if it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return {}
    return {name: int(kilobytes) * 1024 for name, kilobytes in _FIELD.findall(text)}


def _text_of(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
