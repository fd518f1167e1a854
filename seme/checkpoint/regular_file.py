"""Regular files of a model's folder: found and opened only inside it, quoted briefly.

A downloaded folder is untrusted: it may hold named pipes, which block whoever opens them, device
files, and symbolic links to files of the user. Links are followed inside the folder and into
the blobs of the Hugging Face Hub's cache, where a snapshot's files are, and nowhere else.
"""

import os
import re
import reprlib
import stat
from pathlib import Path

from huggingface_hub import constants

_SHARED_BLOB = re.compile(r"[0-9a-f]{64}")
_MAX_NAME_BYTES = 255
"""Longest name of a file on Linux and macOS."""
_MOST_CHARACTERS = 100


def shown(value: object) -> str:
    """Return a value from a file as Python writes it, at most a hundred characters of it."""
    short = reprlib.Repr()
    short.maxlevel = 3
    short.maxstring = short.maxother = short.maxlong = 80
    text = short.repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def brief(text: str) -> str:
    """Return a text from a file for a message: as it is, or its beginning as Python writes it."""
    if text.isprintable() and len(text) <= _MOST_CHARACTERS:
        return text
    return shown(text)


def is_file_name(name: str) -> bool:
    """Return True for the name of a file: printable, of at most 255 bytes, without a slash."""
    return (
        name.isprintable()  # no lone surrogate either
        and name not in ("", ".", "..")
        and "/" not in name
        and "\\" not in name
        and len(name.encode()) <= _MAX_NAME_BYTES
    )


def find_file(folder: Path, name: str) -> Path | None:
    """Find a file of a model's folder.

    Args:
        folder: The folder; it may be a link itself.
        name: Name of the file in it, or in a folder of it.

    Returns:
        Its path, which :func:`open_regular` opens; None if there is none of that name.

    Raises:
        ValueError: If it is no regular file, or a link that leads out of the folder and not
            into the blobs of the Hub's cache, or to nothing.
    """
    path = folder / name
    if not os.path.lexists(path):
        return None
    target = os.path.realpath(path)
    if not _is_within(target, os.path.realpath(folder)) and not _is_blob(target, folder):
        raise ValueError(
            f"{path} is a link to {target}, outside the model's folder: links are followed only "
            "into the blobs of the Hub's cache; put the file itself into the folder"
        )
    try:
        mode = os.stat(target).st_mode  # noqa: PTH116 (a path that is resolved already)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} must be a regular file, it is {_kind(mode)}")
    return path


def open_regular(path: Path) -> int:
    """Open a regular file for reading and return its descriptor; never waits for a pipe.

    Raises:
        ValueError: If it is no regular file.
        OSError: If it cannot be opened.
    """
    _demand_regular(path, os.stat(path).st_mode)  # noqa: PTH116 (before it is opened)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _demand_regular(path, os.fstat(descriptor).st_mode)
    except ValueError:
        os.close(descriptor)
        raise
    return descriptor


def read_part(path: Path, start: int, stop: int) -> tuple[bytes, int]:
    """Read the bytes [start, stop) of a regular file, as far as it has them.

    Returns:
        The bytes, and the size of the whole file.

    Raises:
        ValueError: If it is no regular file or cannot be read.
    """
    try:
        with open(open_regular(path), "rb") as file:
            file.seek(start)
            return file.read(stop - start), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def read_whole(path: Path, *, most: int) -> bytes:
    """Read a regular file.

    Args:
        path: The file.
        most: The most bytes it may have.

    Raises:
        ValueError: If it is no regular file, has more bytes, or cannot be read.
    """
    content, size = read_part(path, 0, most + 1)
    if max(len(content), size) > most:
        raise ValueError(f"{path} has {size} bytes, expected at most {most}")
    return content


def _demand_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} must be a regular file, it is {_kind(mode)}")


def _kind(mode: int) -> str:
    for is_kind, kind in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if is_kind(mode):
            return kind
    return "a device"


def _is_within(target: str, folder: str) -> bool:
    return target.startswith(os.path.join(folder, ""))  # noqa: PTH118 (resolved strings)


def _is_blob(target: str, folder: Path) -> bool:
    """Return True for a blob of the snapshot's repository, or of the Hub's cache.

    Blobs are ``models--org--name/blobs/<etag>`` or, shared by all repositories of a cache,
    ``blobs/<two digits>/<hash>`` (guide "Understand caching" of huggingface_hub).
    """
    real, path = Path(os.path.realpath(folder)), Path(target)
    if real.parent.name == "snapshots":
        repository = real.parent.parent
        if path.parent == repository / "blobs" or _is_shared(path, repository.parent):
            return True
    cache = Path(os.path.realpath(constants.HF_HUB_CACHE))
    own = path.parent.name == "blobs" and path.parent.parent.parent == cache
    return own or _is_shared(path, cache)


def _is_shared(blob: Path, cache: Path) -> bool:
    return blob.parent.parent == cache / "blobs" and bool(_SHARED_BLOB.fullmatch(blob.name))
