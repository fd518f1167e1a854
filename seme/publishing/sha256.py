"""SHA-256 of the files of a model: of inputs cached, of outputs read."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from seme.checkpoint.hash_cache import cached_hash
from seme.checkpoint.lora import ADAPTER_CONFIG, ADAPTER_FILE, AdaptedCheckpoint, AnyCheckpoint
from seme.checkpoint.model_folder import INDEX_FILE, lfs_blobs, read_index
from seme.checkpoint.reader import SINGLE_FILE
from seme.checkpoint.regular_file import find_file, open_regular

_THREADS = 4
"""As for content hashes: hashing and reading release Python's global lock."""


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal.

    Raises:
        ValueError: If it is no regular file, or cannot be read.
    """
    try:
        with open(open_regular(file), "rb") as opened:  # noqa: PTH123 (a descriptor)
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error


def hash_files(files: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of each file, in order, read now.

    Raises:
        ValueError: If one is no regular file, or cannot be read.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="seme-sha256") as pool:
        return list(pool.map(sha256_of, files))


def hash_inputs(files: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of each file, in order, cached until the file changes.

    A large file of a snapshot in the Hub's cache is not read: its blob is named by its SHA-256.

    Raises:
        ValueError: If one is no regular file, or cannot be read.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="seme-sha256") as pool:
        return list(pool.map(_input_hash, files))


def _input_hash(file: Path) -> str:
    blobs = lfs_blobs([file])
    if blobs is not None:
        return blobs[0]
    return cached_hash([file], partial(sha256_of, file), kind="sha256")


def input_files(model: AnyCheckpoint) -> list[Path]:
    """List the files that a model's content is in: weights, index, config, tokenizer.

    Of an adapter they are its own two files; its base is a model of its own.
    """
    if isinstance(model, AdaptedCheckpoint):
        return [model.path / ADAPTER_CONFIG, model.path / ADAPTER_FILE]
    single = find_file(model.path, SINGLE_FILE)
    if single is not None:
        weights = [single]
    else:
        shards = sorted(set(read_index(model.path).values()))
        weights = [model.path / name for name in (INDEX_FILE, *shards)]
    return [*weights, *model.model_files()]
