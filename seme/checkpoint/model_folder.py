"""Where a checkpoint lies: a folder, or a model of the Hugging Face Hub fetched into one."""

import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub


def read_object(path: Path, *, of: str) -> dict[str, Any]:
    """Read a file that must hold a JSON object.

    Args:
        path: The file.
        of: What a folder is that has it, such as "a model folder"; for the error.

    Raises:
        ValueError: If the file is absent, or is no JSON, or holds anything but an object.
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
_NOT_THESE = ["*/*", "*.py", "consolidated*", "*.bin", "*.pt", "*.pth"]
_TRUE = {"1", "true", "yes", "on"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A folder that may hold a checkpoint."""

    folder: Path
    commit: str | None
    """Commit of the Hub repository that the folder is a snapshot of; None for other folders."""


def locate(
    location: str | Path, *, revision: str | None, root: Path, weights: bool = True
) -> Located:
    """Find the folder of a checkpoint, fetching it from the Hub where it is not a folder.

    Args:
        location: A folder, relative to ``root`` or absolute, or a Hub id such as ``org/name``.
        revision: Branch, tag or commit; for Hub ids only.
        root: Folder that relative paths start from.
        weights: Whether to fetch the weights too; False leaves them on the Hub.

    Returns:
        The folder, not yet looked into, and the commit that the revision stood for.

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
        return Located(folder=folder, commit=None)
    if isinstance(location, Path) or not _HUB_ID.fullmatch(location):
        raise ValueError(
            f"no model folder at {folder}: give an existing folder (relative to {root}) or a "
            "Hugging Face Hub id such as org/name"
        )
    snapshot = _fetch(location, revision, folder, weights)
    return Located(folder=snapshot, commit=snapshot.name)  # so the hub's cache names folders


def _fetch(hub_id: str, revision: str | None, folder: Path, weights: bool) -> Path:
    """Fetch a model from the Hub, or find it in the local cache when offline."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE
    try:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=[_WEIGHTS, *_FILES] if weights else _FILES,
                ignore_patterns=_NOT_THESE,
                local_files_only=offline,
            )
        )
    except Exception as error:  # a lost connection is not even an OSError there
        raise ValueError(
            f"{hub_id} is neither a folder ({folder} does not exist) nor a model the Hub "
            f"delivered ({type(error).__name__}): {_advice(hub_id, revision, offline, error)}"
        ) from error


def _advice(hub_id: str, revision: str | None, offline: bool, error: Exception) -> str:
    """Say what to do about a model that the Hub did not deliver."""
    from huggingface_hub.errors import (  # noqa: PLC0415 (loads a client for the web)
        LocalEntryNotFoundError,
    )

    if not offline and not isinstance(error, LocalEntryNotFoundError):
        return "check the id and the revision, and log in with `hf auth login` if it is gated"
    words = ["hf", "download", hub_id, *(["--revision", revision] if revision else [])]
    folder = f"models--{hub_id.replace('/', '--')}"
    cause = "HF_HUB_OFFLINE is set: unset it" if offline else "the Hub cannot be reached: retry"
    return (
        f"the model is not, or not whole, in the local cache, and {cause}, or run "
        f"`{shlex.join(words)}` on a machine with a network and bring {folder} from its cache to "
        f"{huggingface_hub.constants.HF_HUB_CACHE}"
    )
