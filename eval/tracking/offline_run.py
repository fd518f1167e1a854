"""Offline runs of wandb: the folders it writes to, that it wrote, and the upload later."""

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
_WRITING_SECONDS = 30.0
_UPLOADING_SECONDS = 600.0
_HEADER_BYTES = 7
_CHUNK = struct.Struct("<IHB")
_BORDER = 1 << 15
_LAST_CHUNKS = (1, 4)
"""Kinds of chunks: a record in one, and the last of several."""
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


def check_written(path: Path, is_last: Callable[[bytes], bool]) -> None:
    """Wait until a run's file is whole: wandb writes it after the run has ended.

    It swallows its own errors, too.

    Args:
        path: The run's file.
        is_last: Tells the record that ends a run, in the bytes of the file, from others.

    Raises:
        FileNotFoundError: If the file is absent or does not come to its end.
    """
    deadline = time.monotonic() + _WRITING_SECONDS
    while not (path.is_file() and any(is_last(record) for record in records_in(path))):
        if time.monotonic() > deadline:
            raise FileNotFoundError(
                f"the offline run should be in {path}, it is absent or not written to its end"
            )
        time.sleep(0.02)


def records_in(path: Path) -> Iterator[bytes]:
    """Yield the records of a run's file, as far as it is written.

    After a header they lie in LevelDB's log format, in chunks with checksum, size and kind; a
    chunk crosses no border of 32 KiB
    (https://github.com/google/leveldb/blob/main/doc/log_format.md).
    """
    content, place, record = path.read_bytes(), _HEADER_BYTES, b""
    while place + _CHUNK.size <= len(content):
        left = _BORDER - place % _BORDER
        if left < _CHUNK.size:  # zeros up to the border
            place += left
            continue
        _, size, kind = _CHUNK.unpack_from(content, place)
        begin = place + _CHUNK.size
        place = begin + size
        if place > len(content):
            return
        record += content[begin:place]
        if kind in _LAST_CHUNKS:
            yield record
            record = b""


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
