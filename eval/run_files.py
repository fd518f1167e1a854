"""Files of a run: written whole or not at all, abandoned ones removed, errors of reading them."""

import os
import secrets
from pathlib import Path

from eval.owner import is_process, machine_mark
from eval.run_lock import time_in

_LONGEST_WRITE = 3600.0
"""Seconds after which a file that another machine began to write counts as abandoned."""
_REMEDY = "delete its folder to run it again, or restore the file"


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it: readers never see half of it.

    The temporary name has that of this process: what a dead one left is removed, see
    ``eval.folders``.

    Raises:
        OSError: If it cannot be written, for instance to a full disk; a note names the file.
    """
    try:
        owner = f"{machine_mark()}-{os.getpid()}"
        temporary = path.parent / f".{path.name}.{owner}.{secrets.token_hex(4)}"
        try:  # around the creation too: a signal may come right after it
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                temporary.chmod(0o644)
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        error.add_note(f"while writing {path}")
        raise


def remove_if_abandoned(temporary: Path) -> None:
    """Remove a temporary file of ``atomic_write`` unless a process may be writing it.

    On this machine that is looked up; what another one left stays for an hour.
    """
    machine, _, process = temporary.name.split(".")[-2].partition("-")
    try:
        if machine == machine_mark():
            is_abandoned = not is_process(int(process))
        else:
            age = time_in(temporary.parent) - temporary.stat().st_mtime
            is_abandoned = age > _LONGEST_WRITE
        if is_abandoned:
            temporary.unlink()
    except FileNotFoundError:  # it was renamed
        return


def unreadable(path: Path, problem: str, error: Exception) -> ValueError:
    """Error that names a file of a run, its problem, the cause and the remedy."""
    cause = (isinstance(error, OSError) and error.strerror) or error  # without the path
    return ValueError(f"{path} {problem}: {cause}; {_REMEDY}")
