"""Read checkpoints: open them from their headers, read one tensor at a time."""

import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from seme.architecture.config_entries import check_config
from seme.architecture.families import EMBEDDINGS, HEADS, UNTIED_BY_DEFAULT
from seme.checkpoint.hash_cache import cached_hash
from seme.checkpoint.model_folder import (
    INDEX_FILE,
    MODEL_FILES,
    TEMPLATES,
    lfs_blobs,
    locate,
    read_config,
    read_index,
)
from seme.checkpoint.quantised import refuse_quantised
from seme.checkpoint.regular_file import brief, find_file, open_regular
from seme.checkpoint.safetensors_file import (
    OpenedTensor,
    OpenFile,
    StoredTensor,
    TensorSpec,
    read_header,
)

SINGLE_FILE = "model.safetensors"
_BLOCK_BYTES = 1 << 20
_PICKLES = ("*.bin", "*.pt", "*.pth")
_NEVER = (*_PICKLES, "*.py", "*.safetensors", "*.index.json", "*.md")


class Checkpoint:
    """A folder of safetensors; implements :class:`seme.checkpoint.protocol.Weights`.

    Opening reads headers only. Tensor values are read when asked for, and every byte of them is
    counted in :attr:`bytes_read`.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        stored: Mapping[str, StoredTensor],
        *,
        commit: str | None = None,
    ) -> None:
        self.path: Path = path
        """The folder."""
        self.commit = commit
        """Commit of the Hub repository that the folder is a snapshot of; None for others."""
        self.config: Mapping[str, Any] = config
        """The parsed ``config.json``."""
        self.bytes_read = 0
        """Bytes of tensors read so far, for a merge, a comparison or a hash."""
        self._files: dict[Path, OpenFile] = {}
        self._lock = threading.Lock()
        self._dropped: dict[str, str] | None = None
        self._content_hash: str | None = None
        self._stored = {name: stored[name] for name in sorted(stored)}

    @property
    def tokenizer_folder(self) -> Path:
        """The model's folder."""
        return self.path

    @property
    def dropped(self) -> dict[str, str]:
        """LM heads that equal the embedding they are tied to, byte for byte, with the reason.

        The first use reads and compares both, if the configuration ties them and both are
        stored.
        """
        if self._dropped is None:  # not a cached_property: one lock for all objects until 3.12
            self._dropped = {
                head: f"tied to {embedding}, which is written once"
                for head in (self._stored if is_tied(self.config) else ())
                if head.endswith(HEADS)
                for embedding in self._stored
                if embedding.endswith(EMBEDDINGS) and self._are_equal(head, embedding)
            }
        return self._dropped

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted, without :attr:`dropped`."""
        return tuple(name for name in self._stored if name not in self.dropped)

    @property
    def nbytes(self) -> int:
        """Size in bytes of all tensors in :attr:`names`."""
        return sum(self.spec(name).nbytes for name in self.names)

    def stores(self, name: str) -> bool:
        """Return True if the headers have a tensor, those in :attr:`dropped` included."""
        return name in self._stored

    @property
    def stored(self) -> Mapping[str, StoredTensor]:
        """All tensors that the headers have, by name."""
        return self._stored

    @property
    def config_is_own(self) -> bool:
        """Return True if :attr:`config` is not that of the folder."""
        return False

    def spec(self, name: str) -> TensorSpec:
        """Return dtype and shape of a tensor, from the header."""
        return self._stored[name].spec

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, from the header."""
        return self.spec(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor on disk, from the header."""
        return self.spec(name).dtype

    def read(self, name: str) -> Tensor:
        """Read one tensor from disk in its own dtype, on the CPU; nothing is cached."""
        spec = self.spec(name)
        return self.opened(name).read(0, math.prod(spec.shape)).reshape(spec.shape)

    def opened(self, name: str) -> OpenedTensor:
        """Open one tensor, to be read in pieces from any thread."""
        stored = self._stored[name]
        if stored.path not in self._files:
            self._files[stored.path] = OpenFile(stored.path)
        return OpenedTensor(stored, self._files[stored.path], name, self._count)

    def model_files(self) -> tuple[Path, ...]:
        """Return config, tokenizer, processors and chat templates, sorted: what a merge copies.

        Raises:
            ValueError: If one is no regular file, or a link out of the folder.
        """
        more = sorted(path.name for path in (self.path / TEMPLATES).glob("*.jinja"))
        templates = (find_file(self.path, f"{TEMPLATES}/{name}") for name in more)
        return (*files_like(self.path, MODEL_FILES), *filter(None, templates))

    def code_files(self) -> tuple[str, ...]:
        """Return names of Python files of the folder, sorted: never copied, never run."""
        return tuple(sorted(path.name for path in self.path.glob("*.py")))

    def content_hash(self) -> str:
        """Hash the model's content: tensors, config, tokenizer; not their layout in files.

        A snapshot in the Hub's cache is hashed by the SHA-256 names of its weight files' blobs,
        so that no weights are read. A local copy or another sharding of the same model
        therefore has another hash.

        Returns:
            xxh3_128 in hexadecimal over names, dtypes, shapes and bytes of all tensors in the
            order of their names (for a Hub snapshot, over the sorted names of the blobs), then
            over the model files. Cached in this object, and on disk until a file changes.
        """
        if self._content_hash is None:
            shards = sorted({stored.path for stored in self._stored.values()})
            blobs = lfs_blobs(shards)
            self._content_hash = (
                cached_hash([*shards, *self.model_files()], self._hash_of_tensors)
                if blobs is None
                else self._hash_of_blobs(blobs)
            )
        return self._content_hash

    def _hash_of_tensors(self) -> str:
        digest = xxhash.xxh3_128()
        for name in self.names:
            spec = self.spec(name)
            digest.update(f"{name}\0{spec.dtype}\0{spec.shape}\0".encode())
            for block in self._blocks(name):
                digest.update(block)
        return self._with_model_files(digest)

    def _hash_of_blobs(self, blobs: Iterable[str]) -> str:
        digest = xxhash.xxh3_128()
        for blob in sorted(blobs):
            digest.update(f"sha256\0{blob}\0".encode())
        return self._with_model_files(digest)

    def _with_model_files(self, digest: xxhash.xxh3_128) -> str:
        """Add the model files to a digest and return it in hexadecimal."""
        for file in self.model_files():
            with open(open_regular(file), "rb") as opened:  # noqa: PTH123 (a descriptor)
                size = os.fstat(opened.fileno()).st_size
                digest.update(os.fsencode(f"{file.name}\0{size}\0"))
                while block := opened.read(_BLOCK_BYTES):
                    digest.update(block)
        return digest.hexdigest()

    def _are_equal(self, name: str, other: str) -> bool:
        """Compare two tensors: dtype, shape and every byte, up to the first difference."""
        return self.spec(name) == self.spec(other) and all(
            bytes(block) == bytes(other_block)
            for block, other_block in zip(self._blocks(name), self._blocks(other), strict=True)
        )

    def _blocks(self, name: str) -> Iterator[memoryview]:
        """Read and count the raw bytes of a tensor; each block is overwritten by the next."""
        for block in self._stored[name].blocks():
            self._count(len(block))
            yield block

    def _count(self, n_bytes: int) -> None:
        with self._lock:
            self.bytes_read += n_bytes


def open_checkpoint(
    location: str | Path, *, revision: str | None = None, root: Path
) -> Checkpoint:
    """Open a checkpoint: headers and configuration are read and checked, weights are not.

    Args:
        location: A folder, relative to ``root`` or absolute, or a Hub id such as ``org/name``.
        revision: Branch, tag or commit; for Hub ids only.
        root: Folder that relative paths start from: the repository's root.

    Returns:
        The checkpoint, ready to be read.

    Raises:
        ValueError: If there is no such model, or its files are missing, stale, pickled,
            quantised, damaged or in contradiction; the message says which and what to do.
    """
    model = locate(location, revision=revision, root=root)
    config = read_config(model.folder)
    stored = _read_headers(model.folder)
    refuse_quantised(model.folder, config, stored)
    shapes = {name: tensor.spec.shape for name, tensor in stored.items()}
    check_config(config, shapes, path=model.folder / "config.json")
    _refuse_missing_head(model.folder, config, stored)
    checkpoint = Checkpoint(model.folder, config, stored, commit=model.commit)
    checkpoint.model_files()  # refused now rather than when they are hashed or copied
    return checkpoint


def is_tied(config: Mapping[str, Any]) -> bool:
    """Read from a configuration, or from transformers' default, if the LM head is tied."""
    untied_by_default = config.get("model_type") in UNTIED_BY_DEFAULT
    return bool(config.get("tie_word_embeddings", not untied_by_default))


def files_like(folder: Path, patterns: Iterable[str]) -> tuple[Path, ...]:
    """Return a folder's own files matching a pattern, sorted; never weights, code or cards.

    Raises:
        ValueError: If one is no regular file, or a link out of the folder.
    """
    names = [
        name
        for name in sorted(os.listdir(folder))  # noqa: PTH208 (names)
        if any(fnmatchcase(name, pattern) for pattern in patterns)
        and not any(fnmatchcase(name, pattern) for pattern in _NEVER)
    ]
    return tuple(filter(None, (find_file(folder, name) for name in names)))


def _read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Read the headers of all the weights of a folder."""
    single, index = find_file(folder, SINGLE_FILE), find_file(folder, INDEX_FILE)
    if single is not None and index is not None:
        raise ValueError(
            f"{folder} holds both {SINGLE_FILE} and {INDEX_FILE}; one of them is stale: delete "
            "the one that is not the model"
        )
    if single is not None:
        return read_header(single)
    if index is not None:
        return _read_sharded(folder)
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ValueError(_how_to_convert(folder, pickles))
    raise ValueError(f"{folder} has no weights: expected {SINGLE_FILE} or {INDEX_FILE}")


def _how_to_convert(folder: Path, pickles: list[str]) -> str:
    """Return the error message for pickled weights, with the command that converts them."""
    return (
        f"{folder} holds pickled weights ({_listed(pickles)}), which can run code when "
        "read. If you trust them, convert them and use the new folder:\n"
        '  python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
        f"M.from_pretrained('{folder}', dtype='auto').save_pretrained('{folder}-safetensors', "
        f"safe_serialization=True); T.from_pretrained('{folder}')"
        f".save_pretrained('{folder}-safetensors')\""
    )


def _read_sharded(folder: Path) -> dict[str, StoredTensor]:
    """Read the headers of the shards an index names, and check them against it."""
    expected: dict[str, set[str]] = {}
    for name, shard in read_index(folder).items():
        expected.setdefault(shard, set()).add(name)
    stored: dict[str, StoredTensor] = {}
    for shard, names in sorted(expected.items()):
        path = find_file(folder, shard)
        if path is None:
            raise ValueError(f"{INDEX_FILE} in {folder} names {shard}, which is absent")
        tensors = read_header(path)
        if names != set(tensors):
            raise ValueError(
                f"{INDEX_FILE} and the header of {shard} in {folder} disagree about "
                f"{_listed(names ^ set(tensors))}"
            )
        stored |= tensors
    return stored


def _listed(names: Iterable[str]) -> str:
    """Return the first three of names that a file gives, and of those the beginning."""
    return ", ".join(map(brief, sorted(names)[:3]))


def _refuse_missing_head(
    folder: Path, config: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> None:
    """Refuse an untied language model without an LM head: it would load with a random one."""
    classes = config.get("architectures") or ()
    generates = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in classes)
    if generates and not is_tied(config) and not _has_head(config, stored):
        raise ValueError(
            f"{folder} has no {HEADS[0]} though its embeddings are not tied: the checkpoint is "
            "incomplete; set tie_word_embeddings to true in config.json only if they are"
        )


def _has_head(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> bool:
    """Return True if an LM head is stored, whatever its name, or none can be told.

    An untied model has two matrices with a row per token, embedding and head.
    """
    if any(name.endswith(HEADS) for name in stored):
        return True
    rows = {stored[name].spec.shape[:1] for name in stored if name.endswith(EMBEDDINGS)}
    n_tokens = rows.pop() if rows else (config.get("vocab_size"),)
    matrices = [t for t in stored.values() if len(t.spec.shape) == 2]
    return n_tokens == (None,) or sum(t.spec.shape[:1] == n_tokens for t in matrices) > 1
