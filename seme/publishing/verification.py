"""A kept folder against its manifest: every file read again, none missing, none added."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seme.checkpoint.regular_file import brief, find_file
from seme.publishing.card import CARD_NAME
from seme.publishing.manifest import MANIFEST_NAME, FileEntry, Manifest, read_manifest
from seme.publishing.sha256 import hash_files

_UNLISTED = {MANIFEST_NAME, CARD_NAME, "record.json", ".gitattributes", ".gitignore"}
"""Files that may be beside the listed ones: the card is for its owner to edit."""
_UNLISTED_FOLDERS = {".git", ".cache"}
"""What git and the Hub's client keep in a folder."""
_MOST_NAMED = 10
"""Files that are named of those missing or damaged, of those that differ, of those added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a check of a folder found."""

    manifest: Manifest
    problems: tuple[str, ...]
    """Empty if the folder is as its manifest says."""
    sound: frozenset[str]
    """Files that are as the manifest says."""


def verify_folder(folder: Path) -> Verification:
    """Compare every file of a kept folder with its manifest.

    It says whether the folder is what the manifest describes, not who wrote either. Only regular
    files inside the folder are read, and links into the Hub's cache, as everywhere.

    Args:
        folder: The folder; nobody vouches for what is in it.

    Raises:
        ValueError: If there is no manifest, or it cannot be read; names the entry.
    """
    manifest = read_manifest(folder)
    present: dict[str, Path] = {}
    problems: list[str] = []
    for name, entry in sorted(manifest.files.items()):
        try:
            present |= _found(folder, name, entry)
        except ValueError as error:
            problems.append(str(error))
    names = list(present)
    digests = hash_files(list(present.values()))
    wrong = {
        name
        for name, digest in zip(names, digests, strict=True)
        if digest != manifest.files[name].sha256
    }
    differing = [
        f"{brief(name)} differs: its SHA-256 is {digest}, the manifest has "
        f"{manifest.files[name].sha256}"
        for name, digest in zip(names, digests, strict=True)
        if name in wrong
    ]
    added = [
        f"{brief(name)} is not in the manifest"
        for name in sorted(name for name in _names(folder) if name not in manifest.files)
    ]
    return Verification(
        manifest=manifest,
        problems=(
            *_first(problems, "are missing or damaged"),
            *_first(differing, "differ"),
            *_first(added, "are not in the manifest"),
        ),
        sound=frozenset(set(names) - wrong),
    )


def _found(folder: Path, name: str, entry: FileEntry) -> dict[str, Path]:
    """Find a file of the size that the manifest has."""
    path = find_file(folder, name)
    if path is None:
        raise ValueError(f"{brief(name)} is missing")
    size = os.stat(path).st_size  # noqa: PTH116 (follows links, which find_file allows)
    if size != entry.bytes:
        raise ValueError(f"{brief(name)} has {size} bytes, the manifest has {entry.bytes}")
    return {name: path}


def _first(lines: Sequence[str], rest: str) -> list[str]:
    """Return the first lines, and one that counts the others."""
    more = len(lines) - _MOST_NAMED
    return [*lines[:_MOST_NAMED], *([f"{more} more files {rest}"] if more > 0 else [])]


def _names(folder: Path) -> Iterator[str]:
    """Yield files, links and pipes of a folder and of the folders in it; no link is followed."""
    for place, folders, files in os.walk(folder):
        inner = Path(place).relative_to(folder)
        top = inner == Path()
        links = [f for f in folders if os.path.islink(os.path.join(place, f))]  # noqa: PTH114, PTH118
        folders[:] = [f for f in folders if not (top and f in _UNLISTED_FOLDERS)]
        for name in (*files, *links):
            if not (top and name in _UNLISTED):
                yield (inner / name).as_posix()
