"""Lock of a run: one worker has it, on any host that sees the folder, until it ends or dies.

A folder holds numbered claims: ``4.lock`` is held, ``4.free`` was released. Whoever creates
``5.lock`` while 4 is free or its owner dead has the lock: exclusive creation and renaming are
atomic on network file systems too, where locks of the operating system may be local to a host.
The highest number is never removed, so that a late contender cannot take an old one.
"""

import json
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from eval.owner import Owner

_logger = logging.getLogger(__name__)
HEARTBEAT = 10.0
"""Seconds between two heartbeats, which are new times of the claim's file."""
DEAD_AFTER = 120.0
"""Seconds without a heartbeat after which the owner on another host counts as dead."""
_CLAIM = re.compile(r"([1-9]\d{0,17})\.(lock|free)")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two looks at a lock that another process has."""
_MOST_BYTES = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim as it was read: who has, or had, the lock."""

    number: int
    is_free: bool
    """It was released."""
    owner: Owner | None
    """None while the claim is being written, or if it is damaged."""
    since: str
    """ISO 8601, UTC; empty where there is no owner."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Work of the owner, in its own words."""
    stage: str = ""
    """Step that the owner is at; empty where it named none."""
    beat: float
    """Time of the last heartbeat, in seconds since the epoch, by the clock of the folder."""

    def is_dead(self, now: float) -> bool:
        """Return True if the owner has ended without a release.

        On this machine that is looked up, elsewhere its heartbeats have stopped.

        Args:
            now: Seconds since the epoch by the clock of the folder.
        """
        if self.is_free:
            return False
        if self.owner is not None and self.owner.is_of_this_machine():
            return self.owner.has_ended()
        return now - self.beat > DEAD_AFTER

    def whose(self) -> str:
        """Say whose it is, for a message."""
        return "an unknown process" if self.owner is None else str(self.owner)


class RunLock:
    """A lock that one process of all hosts has at a time; it waits, or is asked once.

    Where the owner has died, the next one takes the lock over and says so. An owner that was
    held up for so long that it counted as dead is told by a warning: it goes on, and what both
    write is written whole and is the same.

    Args:
        folder: Of this lock alone; created.
        about: What others are told of the work, JSON-ready.
        say: Called once with a sentence if another process has the lock.
    """

    def __init__(
        self,
        folder: Path,
        *,
        about: Mapping[str, Any] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._folder = folder
        self._about = dict(about or {})
        self._say = say
        self._path: Path | None = None
        self._released = threading.Event()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock.

        Args:
            wait: Wait for a living owner; else it is asked once.

        Returns:
            False if another process has it.

        Raises:
            OSError: If the folder cannot be written.
        """
        assert self._path is None, "the lock is held already"
        self._folder.mkdir(parents=True, exist_ok=True)
        pause, is_said = _FIRST_PAUSE, False
        while True:
            now = time_in(self._folder)
            latest = latest_claim(self._folder)
            is_dead = latest is not None and latest.is_dead(now)
            if latest is None or latest.is_free or is_dead:
                if not self._claim(0 if latest is None else latest.number):
                    continue  # another one was faster
                if latest is not None and is_dead:
                    _say_dead(self._folder.name, latest, now)
                return True
            if not wait:
                return False
            if self._say is not None and not is_said:
                self._say(
                    f"waits for {latest.whose()}, which has this run since {latest.since}"
                )
                is_said = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def note(self, stage: str) -> None:
        """Tell others what is being done now; costs one short write."""
        if self._path is None:
            return
        line = f"{json.dumps({'stage': stage})}\n".encode()
        with suppress(FileNotFoundError):  # taken over
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)

    def release(self) -> None:
        """Give the lock back; nothing happens if it was taken over meanwhile."""
        path, self._path = self._path, None
        if path is None:
            return
        self._released.set()
        with suppress(FileNotFoundError):  # taken over
            path.rename(path.with_suffix(".free"))

    def _claim(self, number: int) -> bool:
        """Create the claim that follows a number; False if another process did."""
        path = self._folder / f"{number + 1}.lock"
        entries = {
            "owner": Owner.here().to_json(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "about": self._about,
        }
        try:
            file = path.open("x", encoding="utf-8")
        except FileExistsError:
            return False
        self._path, self._released = path, threading.Event()
        try:
            with file:
                file.write(json.dumps(entries) + "\n")
            numbers = _numbers(self._folder)
            if max(numbers) > number + 1:  # this number was used and removed before
                self._path = None
                path.unlink(missing_ok=True)
                return False
            for other, file_name in numbers.items():
                if other <= number:
                    (self._folder / file_name).unlink(missing_ok=True)
            threading.Thread(target=_beat, args=(path, self._released), daemon=True).start()
        except BaseException:  # a full disk, or Ctrl-C
            self.release()
            raise
        return True


def latest_claim(folder: Path) -> Claim | None:
    """Read the claim with the highest number in a lock's folder; None if there is none.

    Raises:
        OSError: If it cannot be read.
    """
    while numbers := _numbers(folder):
        number = max(numbers)
        path = folder / numbers[number]
        try:
            with path.open("rb") as file:  # to open is to ask a file server anew
                content = file.read(_MOST_BYTES)
                beat = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            continue  # released between the two looks
        first, *notes = [_parsed(line) for line in content.splitlines()] or [{}]
        stages = [note["stage"] for note in notes if isinstance(note.get("stage"), str)]
        about, since = first.get("about"), first.get("since")
        return Claim(
            number=number,
            is_free=path.suffix == ".free",
            owner=Owner.from_json(first.get("owner")),
            since=since if isinstance(since, str) else "",
            about=about if isinstance(about, dict) else {},
            stage=stages[-1] if stages else "",
            beat=beat,
        )
    return None


def _numbers(folder: Path) -> dict[int, str]:
    """Numbers of a folder's claims to names of their files."""
    names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 (names alone)
    matches = [match for name in names if (match := _CLAIM.fullmatch(name))]
    return {int(match[1]): match[0] for match in matches}


def _parsed(line: bytes) -> dict[str, Any]:
    """Parse a line of a claim; empty if it is half written or damaged."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def time_in(folder: Path) -> float:
    """Return the time as the folder's file system stamps it: hosts' clocks need not agree."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _beat(path: Path, released: threading.Event) -> None:
    """Give a claim's file a new time again and again until it is released."""
    while not released.wait(HEARTBEAT):
        try:
            os.utime(path)
        except FileNotFoundError:
            if not released.is_set():
                _logger.warning(
                    "%s  another worker has taken this run over: this one gave no heartbeat "
                    "for %.0f s; it goes on, and the same record is written twice",
                    path.parent.name,
                    DEAD_AFTER,
                )
            return
        except OSError as error:  # such as a file server that is away: the next may succeed
            _logger.warning("%s  no heartbeat: %s", path.parent.name, error)


def _say_dead(name: str, claim: Claim, now: float) -> None:
    _logger.warning(
        "%s  taken over from %s, which died: it had the run since %s, its last heartbeat was "
        "%.0f s ago",
        name,
        claim.whose(),
        claim.since or "an unknown time",
        max(now - claim.beat, 0.0),
    )
