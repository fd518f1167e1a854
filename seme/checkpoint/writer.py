"""Write a merged checkpoint: streamed to its places, and there whole or not at all."""

import contextlib
import json
import logging
import os
import platform
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import torch
import xxhash
from torch import Tensor

from seme.checkpoint.reader import INDEX_FILE, SINGLE_FILE, Checkpoint, files_like
from seme.checkpoint.safetensors_file import StoredTensor, TensorSpec, lay_out

_logger = logging.getLogger(__name__)
_FLUSHED_BYTES = 1 << 24
"""Written bytes after which the disk is set to work (ours)."""
_PREFIX = ".seme-writing-"
_ABANDONED_SECONDS = 24 * 3600
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*")
_DTYPE_KEYS = ("dtype", "torch_dtype")


def refuse_existing(destination: Path) -> None:
    """Refuse a destination that exists: nothing is ever overwritten.

    Raises:
        ValueError: If ``destination`` exists.
    """
    if destination.exists() or destination.is_symlink():
        raise ValueError(
            f"{destination} already exists: a merge writes a new folder; delete it or choose "
            "another destination"
        )


class CheckpointWriter:
    """Writes the tensors of a new checkpoint, in any order, beside copies of the pivot's files.

    A context manager: the tensors go to a temporary folder beside the destination, which takes
    the destination's name when the block ends. When it ends by an error, nothing is left.
    """

    def __init__(
        self,
        destination: Path,
        *,
        pivot: Checkpoint,
        layout: Mapping[str, TensorSpec],
        config: Mapping[str, object],
        dtype: torch.dtype | None,
        max_shard_bytes: int = 5_000_000_000,
    ) -> None:
        """Plan the files; nothing is written before the block is entered.

        Args:
            destination: The new folder; its parents are created.
            pivot: Model whose files are copied.
            layout: Every tensor that will be written.
            config: What config.json is to hold; the pivot's own is copied byte for byte.
            dtype: What config.json is to state; None leaves it as it is.
            max_shard_bytes: Size above which the tensors are split into several files; a
                single tensor is never split.
        """
        self.bytes_written = 0
        """Bytes of tensors written so far."""
        self._destination = destination
        self._pivot = pivot
        self._config = with_dtype(config, dtype)
        self._shards = split_into_shards(layout, max_shard_bytes)
        self._temporary = destination.parent / f"{_temporary_prefix(destination)}{_own_mark()}"
        self._files: dict[str, BinaryIO] = {}
        self._places: dict[str, tuple[str, StoredTensor]] = {}
        self._left: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        refuse_existing(self._destination)
        self._destination.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(self._destination)
        try:
            self._temporary.mkdir()
            self._copy_model_files()
            self._start_shards()
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, name: str, values: Tensor, start: int = 0) -> None:
        """Write consecutive elements of one tensor to their place; from any thread.

        Args:
            name: A name of the layout.
            values: The values, of any shape and on any device; none of them written before.
            start: Index in the flat tensor of the first of them.

        Raises:
            ValueError: If the name is not in the layout or was written in full, if the values
                are more than are left, or if their dtype is not that of the layout.
            OSError: If they cannot be written, when the disk is full.
        """
        if name not in self._places:
            raise ValueError(f"{name} is not in the layout")
        shard, place = self._places[name]
        if values.dtype != place.spec.dtype:
            raise ValueError(
                f"{name} must be written in {place.spec.dtype}, got {values.dtype}"
            )
        flat = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        with self._lock:
            left = self._left[name] = self._left[name] - len(flat)
            before = self.bytes_written
            self.bytes_written += len(flat)
        if left < 0:
            raise ValueError(
                f"{name} has {place.spec.nbytes} bytes, got {-left} more: it was written before"
            )
        offset = place.offset + start * values.dtype.itemsize
        with _told(f"while writing {name} to {self._destination}"):
            _write_whole(self._files[shard], flat, offset)
        if before // _FLUSHED_BYTES < self.bytes_written // _FLUSHED_BYTES:
            _pass_on(self._files[shard])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            self._discard()

    def _copy_model_files(self) -> None:
        """Copy the pivot's files byte for byte, but for a config.json that has changed."""
        licences = files_like(self._pivot.path, _LICENCES)
        for file in (*self._pivot.model_files(), *licences):
            shutil.copyfile(file, self._temporary / file.name)
        if self._config != self._pivot.config:
            text = json.dumps(self._config, indent=2, ensure_ascii=False) + "\n"
            (self._temporary / "config.json").write_text(text, encoding="utf-8")

    def _start_shards(self) -> None:
        """Write the headers, give the files their size, and the index if there are several."""
        for shard, specs in self._shards.items():
            path = self._temporary / shard
            prefix, places = lay_out(path, specs)
            size = len(prefix) + sum(spec.nbytes for spec in specs.values())
            self._files[shard] = path.open("w+b", buffering=0)
            with _told(f"while writing the header of {path}"):
                _write_whole(self._files[shard], memoryview(prefix), 0)
                self._files[shard].truncate(size)
            self._places |= {name: (shard, place) for name, place in places.items()}
            self._left |= {name: spec.nbytes for name, spec in specs.items()}
        if len(self._shards) > 1:
            text = json.dumps(index_of(self._shards), indent=2) + "\n"
            (self._temporary / INDEX_FILE).write_text(text)

    def _publish(self) -> None:
        """Check that the checkpoint is complete, flush it to disk and give it its name."""
        missing = sorted(name for name, left in self._left.items() if left)
        if missing:
            raise ValueError(f"not written in full: {', '.join(missing[:3])}")
        for file in self._files.values():
            file.close()
        for path in (*sorted(self._temporary.iterdir()), self._temporary):
            _flush(path)
        refuse_existing(self._destination)
        self._temporary.rename(self._destination)
        try:
            _flush(self._destination.parent)
        except OSError as error:  # the checkpoint is whole and has its name
            _logger.warning(
                "%s is written, but its name is not flushed: %s", self._destination, error
            )

    def _discard(self) -> None:
        """Close the files and remove what is left of the temporary folder."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk: what failed has been told
                file.close()
        if self._temporary.exists():
            shutil.rmtree(self._temporary)


def split_into_shards(
    layout: Mapping[str, TensorSpec], max_shard_bytes: int
) -> dict[str, dict[str, TensorSpec]]:
    """Group tensors in the order of their names into files of at most ``max_shard_bytes``.

    Returns:
        File name to its tensors; one ``model.safetensors`` where all fit into it.
    """
    groups: list[dict[str, TensorSpec]] = [{}]
    size = 0
    for name in sorted(layout):
        if groups[-1] and size + layout[name].nbytes > max_shard_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = layout[name]
        size += layout[name].nbytes
    if len(groups) == 1:
        return {SINGLE_FILE: groups[0]}
    return {
        f"model-{i:05d}-of-{len(groups):05d}.safetensors": group
        for i, group in enumerate(groups, start=1)
    }


def with_dtype(config: Mapping[str, object], dtype: torch.dtype | None) -> Mapping[str, object]:
    """Return a configuration that states ``dtype``, in the keys it uses for that.

    Args:
        config: The parsed ``config.json``.
        dtype: The dtype of the weights; None changes nothing.
    """
    if dtype is None:
        return config
    keys = [key for key in _DTYPE_KEYS if key in config] or [_DTYPE_KEYS[0]]
    return {**config, **dict.fromkeys(keys, str(dtype).removeprefix("torch."))}


def remove_stale(destination: Path) -> None:
    """Remove what killed merges into ``destination`` left behind.

    A folder is stale when its process, of this machine, is gone or had this process' own id (as
    it happens in containers): one process merges into one destination once at a time. Of another
    machine, or where another process has the id by now, when nobody has written to it for a day.
    """
    begins = f"{_PREFIX}{destination.name}-"
    pattern = re.compile(re.escape(begins) + r"[0-9a-f]{8}-(\d+)-[0-9a-f]{8}")
    for folder in destination.parent.iterdir():
        found = pattern.fullmatch(folder.name)
        if found is None:
            continue
        pid, here = int(found[1]), folder.name.startswith(_temporary_prefix(destination))
        gone = here and (pid == os.getpid() or not _is_alive(pid))
        if gone or _seconds_untouched(folder) > _ABANDONED_SECONDS:
            shutil.rmtree(folder)


def _seconds_untouched(folder: Path) -> float:
    """Since a file of a folder, or the folder, was last written to; 0 if it goes meanwhile."""
    try:
        return time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except FileNotFoundError:
        return 0.0


def _temporary_prefix(destination: Path) -> str:
    """Return how this machine's temporary folders for a destination begin.

    Process ids mean nothing on another machine that shares the disk: hence the mark of this one.
    """
    machine = xxhash.xxh32_hexdigest(platform.node().encode())
    return f"{_PREFIX}{destination.name}-{machine}-"


def _own_mark() -> str:
    """Return this process' id and a token that makes the folder its own."""
    return f"{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _is_alive(pid: int) -> bool:
    """Tell whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def index_of(shards: Mapping[str, Mapping[str, TensorSpec]]) -> dict[str, object]:
    """Return the index of a sharded checkpoint, of the shards' names and their tensors."""
    total = sum(spec.nbytes for specs in shards.values() for spec in specs.values())
    placed = {name: shard for shard, specs in shards.items() for name in specs}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}


@contextlib.contextmanager
def _told(doing: str) -> Iterator[None]:
    """Add to an error of the system what it interrupted."""
    try:
        yield
    except OSError as error:
        error.add_note(doing)
        raise


def _write_whole(file: BinaryIO, content: memoryview, offset: int) -> None:
    """Write to a place in a file, however few bytes the system takes at a time."""
    while content:
        n_written = os.pwrite(file.fileno(), content, offset)
        content, offset = content[n_written:], offset + n_written


def _pass_on(file: BinaryIO) -> None:
    """Have the system write to disk what a file was given, and forget what is there already.

    So the disk works while the merge does, and neither the pages of the output nor the flush at
    the end grow with the model.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _flush(path: Path) -> None:
    """Force a file or a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with _told(f"while flushing {path} to disk"):
            os.fsync(handle)
    finally:
        os.close(handle)
