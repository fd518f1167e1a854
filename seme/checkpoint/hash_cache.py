"""On-disk cache of hashes computed from files, valid until one of the files changes."""

import functools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import xxhash

from seme.checkpoint.json_text import parse_object
from seme.checkpoint.regular_file import read_whole

_MAX_ENTRY_BYTES = 1_000_000
_TICK_NS = 2_000_000_000
"""Coarsest resolution of a modification time: 2 s on FAT, 10 ms or less elsewhere."""

_logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the user's cache folder: ``SEME_CACHE_DIR``, else ``~/.cache/seme-bench``."""
    chosen = os.environ.get("SEME_CACHE_DIR")
    return Path(chosen) if chosen else Path.home() / ".cache" / "seme-bench"


def cached_hash(files: Sequence[Path], compute: Callable[[], str], *, kind: str = "") -> str:
    """Return the cached hash of unchanged files, else compute and cache it.

    Files count as unchanged if real path, size and modification time are the same. A file
    modified within the resolution of its time may change again unnoticed: a hash of one is not
    cached. A damaged entry is overwritten; an entry that cannot be written is logged, once.

    Args:
        files: The files the hash depends on.
        compute: Computes the hash.
        kind: Name of the hash, where another one of the same files may be cached.
    """
    settled_before = time.time_ns() - _TICK_NS
    states = [_state(file) for file in files]
    if any(modified > settled_before for *_, modified in states):
        return compute()
    named = [*([kind] if kind else []), *(path for path, *_ in states)]
    key = xxhash.xxh3_128_hexdigest(os.fsencode("\0".join(named)))
    entry = cache_folder() / "content" / f"{key}.json"
    state: dict[str, object] = {"files": [list(state) for state in states]}
    cached = _read(entry)
    digest = cached.pop("hash", None)
    if isinstance(digest, str) and cached == state:
        return digest
    computed = compute()
    try:
        _write(entry, json.dumps({**state, "hash": computed}))
    except OSError as error:
        _warn_once(cache_folder(), type(error).__name__)
    return computed


@functools.cache
def _warn_once(folder: Path, cause: str) -> None:
    _logger.warning("hashes are not cached: %s cannot be written to (%s)", folder, cause)


def _state(file: Path) -> tuple[str, int, int]:
    """Return name and real path, size in bytes, and modification time in nanoseconds."""
    real = file.resolve()
    status = real.stat()
    return f"{file.name}={real}", status.st_size, status.st_mtime_ns


def _read(entry: Path) -> dict[str, object]:
    """Read an entry; empty if absent or damaged."""
    try:
        return parse_object(read_whole(entry, most=_MAX_ENTRY_BYTES), what=str(entry))
    except ValueError:  # absent included; it is written anew
        return {}


def _write(entry: Path, text: str) -> None:
    """Write an entry atomically."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary = entry.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    temporary.write_text(text)
    temporary.replace(entry)
