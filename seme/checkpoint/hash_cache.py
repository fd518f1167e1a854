"""Cache of hashes computed from files, valid until one of the files changes."""

import functools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import xxhash

_TICK_NS = 2_000_000_000
"""Clocks of file systems tick every 10 ms at most, FAT's every 2 s."""

_logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the user's cache folder: ``SEME_CACHE_DIR``, else ``~/.cache/seme-bench``."""
    chosen = os.environ.get("SEME_CACHE_DIR")
    return Path(chosen) if chosen else Path.home() / ".cache" / "seme-bench"


def remembered(files: Sequence[Path], compute: Callable[[], str]) -> str:
    """Return ``compute()``, or what it returned last time for the same unchanged files.

    Files count as unchanged when real path, size and time of modification are the same. Of a
    file written to a moment ago that proves nothing, since it may be written to again within the
    same tick of the clock: what depends on one is not remembered. A damaged entry is ignored and
    written anew; an entry that cannot be written is only logged.

    Args:
        files: The files the hash depends on.
        compute: Computes the hash.

    Returns:
        The hash.
    """
    settled_before = time.time_ns() - _TICK_NS
    states = [_state(file) for file in files]
    if any(modified > settled_before for *_, modified in states):
        return compute()
    place = "\0".join(path for path, *_ in states)
    state: dict[str, object] = {"files": [list(state) for state in states]}
    entry = cache_folder() / "content" / f"{xxhash.xxh3_128_hexdigest(place.encode())}.json"
    known = _read(entry) or {}
    cached = known.pop("hash", None)
    if isinstance(cached, str) and known == state:
        return cached
    computed = compute()
    try:
        _write(entry, json.dumps({**state, "hash": computed}))
    except OSError as error:
        _tell_once(cache_folder(), type(error).__name__)
    return computed


@functools.cache
def _tell_once(folder: Path, cause: str) -> None:
    _logger.warning("hashes are not cached, %s cannot be written to: %s", folder, cause)


def _state(file: Path) -> tuple[str, int, int]:
    """Return what tells one state of a file from another; last when it was modified."""
    real = file.resolve()
    status = real.stat()
    return f"{file.name}={real}", status.st_size, status.st_mtime_ns


def _read(entry: Path) -> dict[str, object] | None:
    """Read an entry; None where there is none or it is damaged."""
    try:
        known = json.loads(entry.read_text())
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) else None


def _write(entry: Path, text: str) -> None:
    """Write an entry whole: to a temporary name, then renamed."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary = entry.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    temporary.write_text(text)
    temporary.replace(entry)
