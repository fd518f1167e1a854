"""Where a checkpoint lies: a folder, or a model of the Hugging Face Hub fetched into one."""

import os
import re
from pathlib import Path

import huggingface_hub

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILES = [
    "*.safetensors",
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


def locate(location: str | Path, *, revision: str | None, root: Path) -> Path:
    """Find the folder of a checkpoint, fetching it from the Hub where it is not a folder.

    Args:
        location: A folder, relative to ``root`` or absolute, or a Hub id such as ``org/name``.
        revision: Branch, tag or commit; for Hub ids only.
        root: Folder that relative paths start from.

    Returns:
        The folder, not yet looked into.

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
        return folder
    if isinstance(location, Path) or not _HUB_ID.fullmatch(location):
        raise ValueError(
            f"no model folder at {folder}: give an existing folder (relative to {root}) or a "
            "Hugging Face Hub id such as org/name"
        )
    return _fetch(location, revision, folder)


def _fetch(hub_id: str, revision: str | None, folder: Path) -> Path:
    """Fetch a model from the Hub, or find it in the local cache when offline."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE
    try:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=_FILES,
                ignore_patterns=_NOT_THESE,
                local_files_only=offline,
            )
        )
    except (OSError, ValueError) as error:
        advice = (
            "HF_HUB_OFFLINE is set and the model is not in the local cache: unset it, or run "
            f"`hf download {hub_id}` on a machine with a network"
            if offline
            else "check the id and the revision, and log in with `hf auth login` if it is gated"
        )
        raise ValueError(
            f"{hub_id} is neither a folder ({folder} does not exist) nor a model the Hub "
            f"delivered ({type(error).__name__}): {advice}"
        ) from error
