"""Write merged checkpoints: tensors at their offsets, the folder renamed at the end."""

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

from seme.checkpoint.model_folder import INDEX_FILE
from seme.checkpoint.reader import SINGLE_FILE, Checkpoint, files_like
from seme.checkpoint.safetensors_file import StoredTensor, TensorSpec, lay_out
from seme.checkpoint.writeback import Writeback

_logger = logging.getLogger(__name__)
MAX_SHARD_BYTES = 5_000_000_000
"""Usual size of a shard, that of transformers 4."""
_FLUSHED_BYTES = 1 << 24
"""Bytes written between two requests to write dirty pages back to disk."""
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
    """Context manager that writes a checkpoint: tensors in any order, copies of other files.

    All files go to a temporary sibling of the destination, which is renamed to it when the
    block ends without an error, and removed when it ends with one.
    """

    def __init__(
        self,
        destination: Path,
        *,
        pivot: Checkpoint,
        layout: Mapping[str, TensorSpec],
        config: Mapping[str, object],
        dtype: torch.dtype | None,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        """Lay out the files; nothing is written before the block is entered.

        Args:
            destination: The new folder; its parents are created.
            pivot: Model whose config, tokenizer and licence are copied.
            layout: All tensors to write.
            config: Content of config.json; if equal to the pivot's, that file is copied.
            dtype: Dtype that config.json states; None leaves it as it is.
            max_shard_bytes: Size above which the tensors are split into several files; a
                single tensor is never split.
        """
        self.bytes_written = 0
        """Bytes of tensors written so far."""
        self._destination = destination
        self._pivot = pivot
        self._config = with_dtype(config, dtype)
        self._shards = split_into_shards(layout, max_shard_bytes)
        self._temporary = temporary_sibling(destination)
        self._files: dict[str, BinaryIO] = {}
        self._places: dict[str, tuple[str, StoredTensor]] = {}
        self._left: dict[str, int] = {}
        self._lock = threading.Lock()
        self._writeback = Writeback()

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

    def add(self, name: str, text: str) -> None:
        """Write a further small file, UTF-8, into the folder."""
        (self._temporary / name).write_text(text, encoding="utf-8")

    def write(self, name: str, values: Tensor, start: int = 0) -> None:
        """Write consecutive elements of one tensor; from any thread.

        Args:
            name: A name of the layout.
            values: The elements, of any shape and on any device; each is written once.
            start: Index of the first of them in the flat tensor.

        Raises:
            ValueError: If the name is not in the layout, if more values come than are left to
                write, or if their dtype is not that of the layout.
            OSError: If they cannot be written, for instance to a full disk.
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
            self.bytes_written = before + len(flat)
        if left < 0:
            raise ValueError(
                f"{name} has {place.spec.nbytes} bytes, got {-left} more: it was written before"
            )
        offset = place.offset + start * values.dtype.itemsize
        with _noting(f"while writing {name} to {self._destination}"):
            _write_all(self._files[shard], flat, offset)
            if before // _FLUSHED_BYTES < (before + len(flat)) // _FLUSHED_BYTES:
                with self._lock:
                    self._writeback.request(self._files[shard].fileno())

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
        """Copy the pivot's files, all but a config.json that has changed."""
        licences = files_like(self._pivot.path, _LICENCES)
        for file in (*self._pivot.model_files(), *licences):
            copy = self._temporary / file.relative_to(self._pivot.path)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
        if self._config != self._pivot.config or self._pivot.config_is_own:
            text = json.dumps(self._config, indent=2, ensure_ascii=False) + "\n"
            (self._temporary / "config.json").write_text(text, encoding="utf-8")

    def _start_shards(self) -> None:
        """Create the shards with header and final size, and an index if there are several."""
        for shard, specs in self._shards.items():
            path = self._temporary / shard
            prefix, places = lay_out(path, specs)
            size = len(prefix) + sum(spec.nbytes for spec in specs.values())
            self._files[shard] = path.open("w+b", buffering=0)
            with _noting(f"while writing the header of {path}"):
                _write_all(self._files[shard], memoryview(prefix), 0)
                self._files[shard].truncate(size)
            self._places |= {name: (shard, place) for name, place in places.items()}
            self._left |= {name: spec.nbytes for name, spec in specs.items()}
        if len(self._shards) > 1:
            text = json.dumps(index_of(self._shards), indent=2) + "\n"
            (self._temporary / INDEX_FILE).write_text(text)

    def _publish(self) -> None:
        """Check that the checkpoint is complete, flush it to disk and rename it."""
        missing = sorted(name for name, left in self._left.items() if left)
        if missing:
            raise ValueError(f"not written in full: {', '.join(missing[:3])}")
        with _noting(f"while flushing {self._destination} to disk"):
            self._writeback.wait()
        for file in self._files.values():
            file.close()
        for path in (*sorted(self._temporary.iterdir()), self._temporary):
            flush(path)
        refuse_existing(self._destination)
        self._temporary.rename(self._destination)
        try:
            flush(self._destination.parent)
        except OSError as error:  # the checkpoint is complete and renamed
            _logger.warning(
                "%s is written, but its rename is not flushed to disk: %s",
                self._destination,
                error,
            )

    def _discard(self) -> None:
        """Close the files and remove the temporary folder, if it was not renamed."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk, already reported
                if not file.closed:
                    file.truncate(0)  # nothing is left to be written to disk
        self._writeback.close()
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        if self._temporary.exists():
            shutil.rmtree(self._temporary)


def split_into_shards(
    layout: Mapping[str, TensorSpec], max_shard_bytes: int
) -> dict[str, dict[str, TensorSpec]]:
    """Split tensors, sorted by name, into files of at most ``max_shard_bytes``.

    Returns:
        File name to its tensors; a single ``model.safetensors`` if all fit.
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
    """Return a configuration that states ``dtype``, under the key or keys it uses.

    Args:
        config: The parsed ``config.json``.
        dtype: The dtype of the weights; None changes nothing.
    """
    if dtype is None:
        return config
    keys = [key for key in _DTYPE_KEYS if key in config] or [_DTYPE_KEYS[0]]
    return {**config, **dict.fromkeys(keys, str(dtype).removeprefix("torch."))}


def remove_stale(destination: Path) -> None:
    """Remove temporary folders left by killed merges into ``destination``.

    A folder of this machine is stale if its process has ended, or had this process' id (common
    in containers), as a process runs one merge into a destination at a time. Any other folder
    is stale after a day without a write: its id may be of another machine, or reused.
    """
    prefix = f"{_PREFIX}{destination.name}-"
    pattern = re.compile(re.escape(prefix) + r"[0-9a-f]{8}-(\d+)-[0-9a-f]{8}")
    for folder in destination.parent.iterdir():
        name = pattern.fullmatch(folder.name)
        if name is None:
            continue
        pid, is_local = int(name[1]), folder.name.startswith(_temporary_prefix(destination))
        has_ended = is_local and (pid == os.getpid() or not _is_alive(pid))
        if has_ended or _seconds_untouched(folder) > _ABANDONED_SECONDS:
            shutil.rmtree(folder)


def _seconds_untouched(folder: Path) -> float:
    """Return seconds since the last write to a folder or its files; 0 if it vanishes."""
    try:
        return time.time() - max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return 0.0


def _temporary_prefix(destination: Path) -> str:
    """Return the prefix of this machine's temporary folders for a destination.

    It holds a hash of the machine's name, as process ids are valid on one machine only.
    """
    machine = xxhash.xxh32_hexdigest(platform.node().encode())
    return f"{_PREFIX}{destination.name}-{machine}-"


def temporary_sibling(destination: Path) -> Path:
    """Name a new temporary folder beside a destination; :func:`remove_stale` knows the name.

    It ends in this process' id and a random token.
    """
    suffix = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return destination.parent / f"{_temporary_prefix(destination)}{suffix}"


def _is_alive(pid: int) -> bool:
    """Check that a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def index_of(shards: Mapping[str, Mapping[str, TensorSpec]]) -> dict[str, object]:
    """Return the content of a sharded checkpoint's index."""
    total = sum(spec.nbytes for specs in shards.values() for spec in specs.values())
    placed = {name: shard for shard, specs in shards.items() for name in specs}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}


@contextlib.contextmanager
def _noting(note: str) -> Iterator[None]:
    """Add a note to an OSError."""
    try:
        yield
    except OSError as error:
        error.add_note(note)
        raise


def _write_all(file: BinaryIO, content: memoryview, offset: int) -> None:
    """Write all bytes at an offset; one ``pwrite`` may take only a part of them."""
    while content:
        n_written = os.pwrite(file.fileno(), content, offset)
        content, offset = content[n_written:], offset + n_written


def flush(path: Path) -> None:
    """Force a file or a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with _noting(f"while flushing {path} to disk"):
            os.fsync(handle)
    finally:
        os.close(handle)
