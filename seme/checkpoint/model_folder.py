"""Model folders: local ones and snapshots in the Hugging Face Hub's cache; their JSON files."""

import json
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub

INDEX_FILE = "model.safetensors.index.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WEIGHTS = "*.safetensors"
_FILES = [
    "*.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "LICENSE*",
]
_NEVER_FETCHED = ["*/*", "*.py", "consolidated*", "*.bin", "*.pt", "*.pth"]
_TRUE = {"1", "true", "yes", "on"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A folder that should hold a checkpoint."""

    folder: Path
    commit: str | None
    """Commit of the Hub repository, for a snapshot; None for a local folder."""


def locate(
    location: str | Path, *, revision: str | None, root: Path, weights: bool = True
) -> ModelFolder:
    """Find a checkpoint's folder: a local one, else a snapshot fetched from the Hub.

    Args:
        location: A folder, relative to ``root`` or absolute, or a Hub id such as ``org/name``.
        revision: Branch, tag or commit; for Hub ids only.
        root: Folder that relative paths start from.
        weights: Fetch the weights too; False leaves them on the Hub.

    Returns:
        The folder, its content unchecked, and the commit that the revision resolves to.

    Raises:
        ValueError: If there is no such folder, or the Hub does not deliver the model.
    """
    folder = root / Path(location).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(
                f"revision is for Hub ids only, got {revision!r} for the folder {folder}: "
                "remove it from the configuration"
            )
        return ModelFolder(folder=folder, commit=None)
    if isinstance(location, Path) or not _HUB_ID.fullmatch(location):
        raise ValueError(
            f"no model folder at {folder}: give an existing folder (relative to {root}) or a "
            "Hugging Face Hub id such as org/name"
        )
    snapshot = _fetch(location, revision, folder, weights)
    return ModelFolder(
        folder=snapshot, commit=snapshot.name
    )  # the cache names snapshots by commit


def lfs_blobs(files: Iterable[Path]) -> list[str] | None:
    """Return the SHA-256 of files in a snapshot of the Hub's cache, from its blobs' names.

    A snapshot holds links ``snapshots/<commit>/<file>`` to ``blobs/<etag>``, and the etag of a
    file in LFS or Xet storage, as all large ones are, is the SHA-256 of its content (guide
    "Understand caching" of huggingface_hub).

    Returns:
        64 hexadecimal digits for each file, in order; None unless all files are such links.
    """
    targets = [
        (file.parent.resolve().parent.parent / "blobs", file.resolve()) for file in files
    ]
    are_blobs = all(
        target.parent == blobs and _SHA256.fullmatch(target.name) for blobs, target in targets
    )
    return [target.name for _, target in targets] if are_blobs else None


def read_object(path: Path, *, of: str) -> dict[str, Any]:
    """Read a file that must hold a JSON object.

    Args:
        path: The file.
        of: Kind of folder that must have the file, such as "a model folder"; for the error.

    Raises:
        ValueError: If the file is absent or holds anything but a JSON object.
    """
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}: it is not {of}")
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be parsed: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{path} must hold a JSON object, got {parsed!r:.40}")
    return parsed


def read_index(folder: Path) -> dict[str, str]:
    """Read the index of a sharded model.

    Returns:
        Tensor name to file name; the files are the folder's own, and may be absent.

    Raises:
        ValueError: If there is no index, or it is malformed or points out of the folder.
    """
    placed = read_object(folder / INDEX_FILE, of="a sharded model").get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(v, str) for v in placed.values()):
        raise ValueError(f"{folder / INDEX_FILE} must map tensor names to files in weight_map")
    for shard in sorted(set(placed.values())):
        parts = PurePosixPath(shard.replace("\\", "/"))
        if parts.is_absolute() or len(parts.parts) != 1 or ".." in parts.parts:
            raise ValueError(
                f"{INDEX_FILE} in {folder} names the shard {shard!r}: index paths are confined "
                "to the model folder"
            )
    return placed


def _fetch(hub_id: str, revision: str | None, folder: Path, weights: bool) -> Path:
    """Fetch a snapshot from the Hub, or find it in the local cache when offline."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE
    try:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=[_WEIGHTS, *_FILES] if weights else _FILES,
                ignore_patterns=_NEVER_FETCHED,
                local_files_only=offline,
            )
        )
    except Exception as error:  # lost connections raise errors of the HTTP library
        raise ValueError(
            f"{hub_id} is neither a folder ({folder} does not exist) nor a model the Hub "
            f"delivered ({type(error).__name__}): {_advice(hub_id, revision, offline, error)}"
        ) from error


def _advice(hub_id: str, revision: str | None, offline: bool, error: Exception) -> str:
    """Return what to do about a snapshot that was not fetched."""
    from huggingface_hub.errors import (  # noqa: PLC0415 (loads a client for the web)
        LocalEntryNotFoundError,
    )

    if not offline and not isinstance(error, LocalEntryNotFoundError):
        return "check the id and the revision, and log in with `hf auth login` if it is gated"
    command = ["hf", "download", hub_id, *(["--revision", revision] if revision else [])]
    folder = f"models--{hub_id.replace('/', '--')}"
    cause = "HF_HUB_OFFLINE is set: unset it" if offline else "the Hub cannot be reached: retry"
    return (
        f"the model is not, or not whole, in the local cache, and {cause}, or run "
        f"`{shlex.join(command)}` on a machine with a network and bring {folder} from its "
        f"cache to {huggingface_hub.constants.HF_HUB_CACHE}"
    )
