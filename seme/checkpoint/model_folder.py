"""Model folders: local ones and snapshots in the Hugging Face Hub's cache; their JSON files."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seme.checkpoint.hub import fetch_snapshot
from seme.checkpoint.json_text import BUDGET, parse_object
from seme.checkpoint.regular_file import brief, find_file, is_file_name, read_whole, shown

INDEX_FILE = "model.safetensors.index.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_MAX_JSON_BYTES = 50_000_000
"""More than twice the index of the largest models."""
_MOST_LABELS = 100_000
"""Labels of a classifier in a configuration; more than any published."""
_MAX_LOCATION = 1000
"""Characters of a location that an error repeats."""
_WEIGHTS = "*.safetensors"
MODEL_FILES = (
    *("config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer.*.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken"),
    *("tokenizer.model.v*", "tekken.json", "bpe.codes", "dict.txt", "emoji.json"),
    *("entity_vocab.json", "vocab-src.json", "vocab-tgt.json", "normalizer.json"),
    *("*.jinja", "chat_template.json", "processor_config.json", "preprocessor_config.json"),
    *("video_preprocessor_config.json", "audio_tokenizer_config.json"),
)
"""Files of a model beside its weights that transformers reads: what a merge copies."""
TEMPLATES = "additional_chat_templates"
"""Folder of a tokenizer's named chat templates, as transformers writes them."""
_FETCHED = ["*.json", "LICENSE*", f"{TEMPLATES}/*.jinja", *MODEL_FILES]
_NEVER_FETCHED = [
    *("*.py", "consolidated*", "*.bin", "*.pt", "*.pth"),
    *("*/*.json", "*/*.safetensors", "*/*.model", "*/*.tiktoken", "*/*.txt", "*/*.codes"),
    *("LICENSE*/*", "tokenizer.model.v*/*", "[!a]*/*.jinja"),
]
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
    folder = expanded(location, root)
    if folder is not None and folder.is_dir():
        if revision is not None:
            raise ValueError(
                f"revision is for Hub ids only, got {shown(revision)} for the folder {folder}: "
                "remove it from the configuration"
            )
        return ModelFolder(folder=folder, commit=None)
    if folder is None or isinstance(location, Path) or not _HUB_ID.fullmatch(location):
        raise ValueError(
            f"no model folder at {_bare(folder or location)}: give an existing folder (relative "
            f"to {root}) or a Hugging Face Hub id such as org/name"
        )
    if revision is not None and not isinstance(revision, str):
        raise ValueError(f"the revision of {location} must be text, got {shown(revision)}")
    snapshot = fetch_snapshot(
        location,
        revision,
        folder,
        allow=[_WEIGHTS, *_FETCHED] if weights else _FETCHED,
        ignore=_NEVER_FETCHED,
    )
    return ModelFolder(
        folder=snapshot, commit=snapshot.name
    )  # the cache names snapshots by commit


def expanded(location: str | Path, root: Path) -> Path | None:
    """Return the path of a folder, ``~`` replaced; None if no folder can have it."""
    try:
        folder = root / Path(location).expanduser()
        folder.is_dir()  # fails for names that are too long
    except (OSError, RuntimeError, ValueError):  # the second: ~ of an unknown user
        return None
    return folder


def _bare(location: str | Path) -> str:
    """Return a location for a message: as it is, or briefly if it is long or not printable."""
    text = str(location)
    return text if text.isprintable() and len(text) <= _MAX_LOCATION else shown(text)


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


def read_object(path: Path, *, of: str, budget: int = BUDGET) -> dict[str, Any]:
    """Read a file that must hold a JSON object.

    Args:
        path: The file.
        of: Kind of folder that must have the file, such as "a model folder"; for the error.
        budget: Most bytes of memory that parsing may take beyond the file's size.

    Raises:
        ValueError: If the file is absent, is no regular file of its folder, or holds anything
            but a JSON object; see :func:`seme.checkpoint.json_text.parse_object`.
    """
    file = find_file(path.parent, path.name)
    if file is None:
        raise ValueError(f"{path.parent} has no {path.name}: it is not {of}")
    text = read_whole(file, most=_MAX_JSON_BYTES)
    return parse_object(text, what=str(path), budget=budget)


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model's ``config.json``.

    Raises:
        ValueError: If it is absent or no JSON object, see :func:`read_object`, or it counts more
            than 100,000 labels: transformers makes a name for each.
    """
    config = read_object(folder / "config.json", of="a model folder")
    parts: list[Any] = [config]
    while parts:
        part = parts.pop()
        n_labels = part.get("num_labels")
        if isinstance(n_labels, int | float) and n_labels > _MOST_LABELS:
            raise ValueError(
                f"{folder / 'config.json'}: num_labels must be at most {_MOST_LABELS:,}, got "
                f"{brief(str(n_labels))}; a language model needs none: remove the entry"
            )
        parts += [value for value in part.values() if isinstance(value, dict)]
    return config


def read_index(folder: Path) -> dict[str, str]:
    """Read the index of a sharded model.

    Returns:
        Tensor name to file name; the files are the folder's own, and may be absent.

    Raises:
        ValueError: If there is no index, or it is malformed or points out of the folder.
    """
    placed = read_object(folder / INDEX_FILE, of="a sharded model").get("weight_map")
    path = folder / INDEX_FILE
    if not isinstance(placed, dict) or not all(isinstance(v, str) for v in placed.values()):
        raise ValueError(f"{path} must map tensor names to files in weight_map")
    for shard in sorted(set(placed.values())):
        if not is_file_name(shard):
            raise ValueError(
                f"{path} names the shard {shown(shard)}: index paths are confined to the model "
                "folder, and are names of files"
            )
    return placed
