"""Offline runs of wandb: the folders it writes to, that it wrote, and the upload later."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FOLDERS = {
    "WANDB_DIR": "",
    "WANDB_CACHE_DIR": "cache",
    "WANDB_DATA_DIR": "data",
    "WANDB_CONFIG_DIR": "config",
    "WANDB_ARTIFACT_DIR": "artifacts",
}
_IN_ORDER = ("runs/*/wandb/merge/wandb", "runs/*/wandb/evaluation/wandb", "wandb/wandb")
_COMMAND = "WANDB_PROGRAM=seme-bench wandb sync"
_WRITING_SECONDS = 5.0
_UPLOADING_SECONDS = 600.0
_UPLOADING = {"WANDB_PROGRAM": "seme-bench", "WANDB_X_GRAPHQL_RETRY_MAX": "3"}
"""Settings of an upload: not its own path as the name of the program, and no hour of retries."""


@contextmanager
def folders_under(folder: Path) -> Iterator[None]:
    """Point every folder wandb writes to under this one, for the block."""
    before = {name: os.environ.get(name) for name in _FOLDERS}
    for name, below in _FOLDERS.items():
        (folder / below).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder / below)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def check_written(path: Path) -> None:
    """Look at a run's file: wandb swallows its own errors, and may write it a little later.

    Raises:
        FileNotFoundError: If it is absent or empty.
    """
    deadline = time.monotonic() + _WRITING_SECONDS
    while not (path.is_file() and path.stat().st_size > 0):
        if time.monotonic() > deadline:
            raise FileNotFoundError(
                f"the offline run should be in {path}, it is absent or empty"
            )
        time.sleep(0.02)


def upload(path: Path, root: Path) -> None:
    """Upload one offline run.

    Args:
        path: The run's file.
        root: The results folder it is in: the paths in the run start there.

    Raises:
        ConnectionError: If wandb could not; the run stays on disk.
        subprocess.TimeoutExpired: If it did not end within ten minutes.
    """
    command = [sys.executable, "-m", "wandb", "sync", os.path.relpath(path.parent, root)]
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ | _UPLOADING,
        capture_output=True,
        text=True,
        timeout=_UPLOADING_SECONDS,
        check=False,
    )
    if done.returncode != 0 or not path.with_suffix(".wandb.synced").exists():
        raise ConnectionError(f"wandb sync failed: {done.stderr.strip()[-400:]}")


def upload_commands(root: Path) -> list[str]:
    """The commands that upload the offline runs of a results folder, in this order.

    Merges go before the scores that stand on them. The paths in the runs start from the results
    folder, so the commands do too; the folder may have been moved to another machine.

    Returns:
        Empty if there is no offline run.
    """
    found = [pattern for pattern in _IN_ORDER if any(root.glob(pattern))]
    return [f"cd {root}", *(f"{_COMMAND} {pattern}" for pattern in found)] if found else []
