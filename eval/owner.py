"""The process that holds a lock: its host, id and start, and whether it has ended."""

import getpass
import hashlib
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import psutil  # type: ignore[import-untyped]

from eval.schema import build, check_json

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROCESS_IDS = Path("/proc/self/ns/pid")
_SAME_START = 60.0
"""Seconds by which two readings of one process's start may differ: clocks are set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, as others can look it up; equal ids of two machines are two processes."""

    host: str
    machine: str
    """Boot and namespace of process ids: containers of one host name differ, so does a reboot."""
    pid: int
    started: float
    """Seconds since the epoch."""
    user: str

    @classmethod
    def here(cls) -> Self:
        """Return this process."""
        return cls(
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=psutil.Process().create_time(),
            user=_user(),
        )

    @classmethod
    def from_json(cls, value: object) -> Self | None:
        """Read what :meth:`to_json` gave; None if it is something else."""
        try:
            check_json(value)
            return build(cls, value)
        except ValueError:
            return None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def is_of_this_machine(self) -> bool:
        """Return True if the process can be looked up from this one."""
        return (self.host, self.machine) == (socket.gethostname(), _machine())

    def has_ended(self) -> bool:
        """Return True if the process, of this machine, is gone, or its id is another's now.

        One of another user that the system hides counts as running.
        """
        try:
            process = psutil.Process(self.pid)
            is_zombie = process.status() == psutil.STATUS_ZOMBIE
            difference = abs(process.create_time() - self.started)
            return is_zombie or bool(difference > _SAME_START)
        except psutil.AccessDenied:
            return False
        except psutil.NoSuchProcess:
            return not is_process(self.pid)

    def __str__(self) -> str:
        return f"{self.user} on {self.host}, process {self.pid}"


def is_process(pid: int) -> bool:
    """Return True if this machine has a process of this id."""
    return bool(psutil.pid_exists(pid))


def machine_mark() -> str:
    """Name this machine in 8 hexadecimal digits, as part of a file's name."""
    return hashlib.sha256(f"{socket.gethostname()} {_machine()}".encode()).hexdigest()[:8]


def _machine() -> str:
    """Identify this boot and this namespace of process ids, where the system has such names."""
    boot = _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else ""
    return f"{boot} {_PROCESS_IDS.readlink()}" if _PROCESS_IDS.exists() else boot


def _user() -> str:
    """Name the user; the number where a container has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
