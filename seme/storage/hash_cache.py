"""Remember a hash over files on disk until one of the files changes."""

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import xxhash

_logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the user's cache folder: ``SEME_CACHE_DIR``, else ``~/.cache/seme-bench``."""
    chosen = os.environ.get("SEME_CACHE_DIR")
    return Path(chosen) if chosen else Path.home() / ".cache" / "seme-bench"


def remembered(files: Sequence[Path], compute: Callable[[], str]) -> str:
    """Return ``compute()``, or what it returned last time for the same unchanged files.

    Files count as unchanged when real path, size and time of modification are the same. A
    damaged entry is ignored and written anew; an entry that cannot be written is only logged.

    Args:
        files: The files the hash depends on.
        compute: Computes the hash.

    Returns:
        The hash.
    """
    states = [_state(file) for file in files]
    key = xxhash.xxh3_128_hexdigest("\0".join(str(state[0]) for state in states).encode())
    entry = cache_folder() / "content" / f"{key}.json"
    known = _read(entry)
    if (
        known is not None
        and known.get("files") == states
        and isinstance(known.get("hash"), str)
    ):
        return str(known["hash"])
    computed = compute()
    try:
        _write(entry, json.dumps({"files": states, "hash": computed}))
    except OSError as error:
        _logger.warning("the content hash is not cached: %s", error)
    return computed


def _state(file: Path) -> list[str | int]:
    """Return what tells one state of a file from another."""
    real = file.resolve()
    status = real.stat()
    return [f"{file.name}={real}", status.st_size, status.st_mtime_ns]


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
