"""Checkpoints on disk: opened from their headers, read one tensor at a time."""

import math
import re
import threading
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import xxhash
from torch import Tensor

from seme.architecture.families import EMBEDDINGS, HEADS, UNTIED_BY_DEFAULT
from seme.checkpoint.hash_cache import remembered
from seme.checkpoint.model_folder import locate, read_object
from seme.checkpoint.safetensors_file import (
    OpenedTensor,
    OpenFile,
    StoredTensor,
    TensorSpec,
    read_header,
)

_WRITTEN_BY_QUANTISERS = frozenset(
    {
        "SCB",
        "absmax",
        "g_idx",
        "nested_absmax",
        "nested_quant_map",
        "quant_map",
        "qweight",
        "qzeros",
        "weight_packed",
        "weight_scale",
        "weight_scale_inv",
        "weight_zero_point",
    }
)
_WEIGHT = re.compile(r"(^|[._])q?weight([._:]|$)")
_BESIDE_CODES = ("absmax", "codebook", "scale", "zero")
_STATED_IN = ("quantization_config", "compression_config")


def refuse_quantised(
    folder: Path, config: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> None:
    """Refuse a checkpoint whose tensors, or whose configuration, say that it is quantised.

    Integers that no sign makes a weight (positions, masks, counters) are no reason: a merge
    copies them.

    Args:
        folder: The model's folder.
        config: The parsed ``config.json``.
        stored: The tensors by name, from the headers.

    Raises:
        ValueError: If it is quantised; names the first such tensor and its file where there is
            one.
    """
    beside = {_module(name) for name in stored if _is_beside_codes(name)}
    for name in sorted(stored):
        dtype = stored[name].spec.dtype
        if _holds_codes(name, dtype, beside) or _is_of_a_quantiser(name):
            raise ValueError(
                f"{folder} is quantised: {name} ({dtype}) in {stored[name].path.name} is a part "
                "of packed weights, which cannot be merged: use the checkpoint it was quantised "
                "from"
            )
    for key in _STATED_IN:
        stated = config.get(key) or (config.get("text_config") or {}).get(key)
        if stated is not None:
            raise ValueError(
                f"{folder} is quantised, says its config.json: {key} is {stated!r:.80}; use the "
                f"checkpoint it was quantised from, or remove {key} if the weights are plain"
            )


def _holds_codes(name: str, dtype: torch.dtype, beside: set[str]) -> bool:
    """Whether integers stand for weights: by their name, or by the scales that lie beside them."""
    if dtype.is_floating_point or dtype == torch.bool:
        return False
    return _WEIGHT.search(name) is not None or _module(name) in beside


def _is_of_a_quantiser(name: str) -> bool:
    """Whether only quantisers give tensors this name."""
    return name.rpartition(".")[2] in _WRITTEN_BY_QUANTISERS


def _is_beside_codes(name: str) -> bool:
    """Whether a tensor is, by its name, what codes are multiplied with or looked up in."""
    return any(word in name.rpartition(".")[2] for word in _BESIDE_CODES)


def _module(name: str) -> str:
    """Return the module that a tensor belongs to."""
    return name.rpartition(".")[0]


SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth")
_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.jinja",
    "*.tiktoken",
)
_NEVER = (*_PICKLES, "*.py", "*.safetensors", "*.index.json", "*.md")


class Checkpoint:
    """A folder of safetensors; implements :class:`seme.checkpoint.protocol.Weights`."""

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
        self.dropped = _tied_copies(config, stored)
        """Stored tensors that are no tensors of their own, with the reason."""
        self.bytes_read = 0
        """Bytes of tensors read so far."""
        self._files: dict[Path, OpenFile] = {}
        self._lock = threading.Lock()
        self._content_hash: str | None = None
        self._stored = {
            name: stored[name] for name in sorted(stored) if name not in self.dropped
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors on disk, sorted; a tied tensor stands once."""
        return tuple(self._stored)

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(stored.spec.nbytes for stored in self._stored.values())

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

    def _count(self, n_bytes: int) -> None:
        with self._lock:
            self.bytes_read += n_bytes

    def model_files(self) -> tuple[Path, ...]:
        """Return config, tokenizer and chat template: the files beside the weights, sorted."""
        return files_like(self.path, _MODEL_FILES)

    def content_hash(self) -> str:
        """Hash what the model is: tensors, config, tokenizer; not how they lie in files.

        Returns:
            xxh3_128 in hexadecimal over names, dtypes, shapes and bytes of all tensors in the
            order of their names, then over the model files. Cached until a file changes, and
            for this object, whose headers are read once, for good.
        """
        if self._content_hash is None:
            shards = {stored.path for stored in self._stored.values()}
            files = [*sorted(shards), *self.model_files()]
            self._content_hash = remembered(files, self._compute_hash)
        return self._content_hash

    def _compute_hash(self) -> str:
        digest = xxhash.xxh3_128()
        for name, stored in self._stored.items():
            digest.update(f"{name}\0{stored.spec.dtype}\0{stored.spec.shape}\0".encode())
            for block in stored.blocks():
                digest.update(block)
        for file in self.model_files():
            content = file.read_bytes()
            digest.update(f"{file.name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()


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
    found = locate(location, revision=revision, root=root)
    config = read_object(found.folder / "config.json", of="a model folder")
    stored = _read_headers(found.folder)
    refuse_quantised(found.folder, config, stored)
    _refuse_missing_head(found.folder, config, stored)
    return Checkpoint(found.folder, config, stored, commit=found.commit)


def files_like(folder: Path, patterns: Iterable[str]) -> tuple[Path, ...]:
    """Return a folder's own files matching a pattern, sorted; never weights, code or cards."""
    return tuple(
        file
        for file in sorted(folder.iterdir())
        if file.is_file()
        and any(fnmatchcase(file.name, pattern) for pattern in patterns)
        and not any(fnmatchcase(file.name, pattern) for pattern in _NEVER)
    )


def _read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Read the headers of all the weights of a folder."""
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.exists() and index.exists():
        raise ValueError(
            f"{folder} holds both {SINGLE_FILE} and {INDEX_FILE}; one of them is stale: delete "
            "the one that is not the model"
        )
    if single.exists():
        return read_header(single)
    if index.exists():
        return _read_sharded(folder)
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ValueError(_how_to_convert(folder, pickles))
    raise ValueError(f"{folder} has no weights: expected {SINGLE_FILE} or {INDEX_FILE}")


def _how_to_convert(folder: Path, pickles: list[str]) -> str:
    """Say why pickled weights are refused and how to convert them."""
    return (
        f"{folder} holds pickled weights ({', '.join(pickles[:3])}), which can run code when "
        "read. If you trust them, convert them and use the new folder:\n"
        '  python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
        f"M.from_pretrained('{folder}', dtype='auto').save_pretrained('{folder}-safetensors', "
        f"safe_serialization=True); T.from_pretrained('{folder}')"
        f".save_pretrained('{folder}-safetensors')\""
    )


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


def _read_sharded(folder: Path) -> dict[str, StoredTensor]:
    """Read the headers of the shards an index names, and check them against it."""
    placed = read_index(folder)
    stored: dict[str, StoredTensor] = {}
    for shard in sorted(set(placed.values())):
        if not (folder / shard).is_file():
            raise ValueError(f"{INDEX_FILE} in {folder} names {shard}, which is absent")
        found = read_header(folder / shard)
        expected = {name for name, place in placed.items() if place == shard}
        if expected != set(found):
            differing = ", ".join(sorted(expected ^ set(found))[:3])
            raise ValueError(
                f"{INDEX_FILE} and the header of {shard} in {folder} disagree about {differing}"
            )
        stored |= found
    return stored


def _refuse_missing_head(
    folder: Path, config: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> None:
    """Refuse a language model without a head of its own or a tied one: it would be random."""
    classes = config.get("architectures") or ()
    generates = any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in classes)
    if generates and not is_tied(config) and not any(name.endswith(HEADS) for name in stored):
        raise ValueError(
            f"{folder} has no {HEADS[0]} though its embeddings are not tied: the checkpoint is "
            "incomplete; set tie_word_embeddings to true in config.json only if they are"
        )


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether a configuration says, or leaves it to transformers to say, that the head is tied."""
    untied_by_default = config.get("model_type") in UNTIED_BY_DEFAULT
    return bool(config.get("tie_word_embeddings", not untied_by_default))


def _tied_copies(
    config: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> dict[str, str]:
    """Find heads stored beside the embedding they are tied to, equal to it byte for byte."""
    if not is_tied(config):
        return {}
    return {
        head: f"tied to {embedding}, which is written once"
        for head in stored
        if head.endswith(HEADS)
        for embedding in stored
        if embedding.endswith(EMBEDDINGS)
        and stored[head].spec == stored[embedding].spec
        and all(
            bytes(one) == bytes(other)
            for one, other in zip(
                stored[head].blocks(), stored[embedding].blocks(), strict=True
            )
        )
    }
