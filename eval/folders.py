"""Folders of a run: checked before costly work, and swept of what dead processes left."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.run_files import remove_if_abandoned
from eval.run_lock import RunLock

LOCKS = ".locks"
"""Folder of a results folder with the locks of its runs."""
_SCRATCH = re.compile(
    r"(?:\.[a-z-]+-)?scratch-(.+-[0-9a-f]{12})(?:-[0-9a-f]{8}-\d+-[0-9a-f]{8})?"
)
"""A run's scratch folder, and the temporary folder that it is written as."""
_TEMPORARY = re.compile(
    r"\.(?:record\.json|samples\.jsonl\.gz|cell\.json|scored\.json\.gz|(?:wandb|mlflow|tensorboard)\.json|leaderboard\.\w+|.+\.svg)"
    r"(?:\.[0-9a-f]{8}-\d+)?\.[a-z0-9_]{8}"
)
"""Names under which ``eval.run_files.atomic_write`` writes the files of a results folder."""
_PLACES = ("", "figures/", "runs/*/", "sweeps/*/", "sweeps/*/*/")


def run_lock(
    root: Path,
    run: str,
    *,
    about: Mapping[str, Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> RunLock:
    """Return the lock of a run: the same cell of two sweeps, on any two hosts, runs once.

    Args:
        root: The results folder.
        run: Name of the run's folder.
        about: What others are told of the work, JSON-ready.
        say: Called with a sentence before the lock of another process is waited for.
    """
    return RunLock(root / LOCKS / run, about=about, say=say)


@contextmanager
def if_idle(root: Path, run: str) -> Iterator[bool]:
    """Hold a run's lock for the block, and yield True, unless a process runs it."""
    lock = run_lock(root, run)
    is_idle = lock.acquire(wait=False)
    try:
        yield is_idle
    finally:
        lock.release()


def check_writable(folder: Path, *, entry: str) -> None:
    """Check that files can be written in a folder, or in the one it would be created in.

    Args:
        folder: Absolute; may be absent, and is not created.
        entry: The entry of the configuration that names it.

    Raises:
        ValueError: If nothing can be written there; names the entry, the folder and the cause.
    """
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        raise ValueError(
            f"{entry}: nothing can be written in {str(folder)[:200]} ({error.strerror}): give "
            "another folder"
        ) from error


def remove_leftovers(root: Path) -> None:
    """Remove scratch folders and temporary files that dead processes left.

    Those of live processes stay: a run's scratch folder is under the run's lock, a temporary
    file's name has its process.

    Args:
        root: The results folder; may be absent.
    """
    for folder in [*root.glob("scratch-*"), *root.glob(".*-scratch-*")]:
        if name := _SCRATCH.fullmatch(folder.name):
            with if_idle(root, name[1]) as idle:
                if idle:
                    shutil.rmtree(folder, ignore_errors=True)
    for place in _PLACES:
        for file in root.glob(f"{place}.*"):
            if _TEMPORARY.fullmatch(file.name):
                remove_if_abandoned(file)
