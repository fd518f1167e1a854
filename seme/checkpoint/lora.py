"""LoRA adapters: opened with their base and read as one model; hashes of any models."""

import contextlib
import json
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import xxhash
from torch import Tensor

from seme.checkpoint.adapter_base import disagreement
from seme.checkpoint.hash_cache import cached_hash
from seme.checkpoint.lora_config import LoraSettings, parse_lora_config
from seme.checkpoint.lora_tensors import (
    AdaptedTensor,
    Changes,
    Factors,
    match_tensors,
    module_names,
)
from seme.checkpoint.model_folder import ModelFolder, expanded, locate, read_object
from seme.checkpoint.opening import open_model
from seme.checkpoint.protocol import Readable
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.regular_file import find_file, shown
from seme.checkpoint.safetensors_file import (
    OpenedTensor,
    OpenFile,
    StoredTensor,
    TensorSpec,
    read_header,
)
from seme.checkpoint.stacked import StackedCheckpoint
from seme.checkpoint.tokenizer_files import folder_with_tokenizer

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
_HASH_THREADS = 4
"""Enough to keep a disk busy; for files in the page cache, two are as fast (measured)."""


class AdaptedCheckpoint:
    """Base with an adapter merged in; implements :class:`seme.checkpoint.protocol.Weights`."""

    def __init__(
        self,
        adapter: ModelFolder,
        base: Checkpoint,
        settings: LoraSettings,
        changes: Changes,
        *,
        other_base: str | None = None,
    ) -> None:
        """Combine the two; :func:`open_adapter` does the checking.

        Args:
            adapter: The adapter's folder.
            base: Opened for this adapter alone: bytes read from it count as read here.
            settings: What the adapter's configuration says.
            changes: What the adapter's file holds.
            other_base: See :attr:`other_base`.
        """
        self.path = adapter.folder
        """The adapter's folder."""
        self.commit = adapter.commit
        """Commit of the adapter's Hub repository, not the base's; None for local folders."""
        self.base = base
        self.other_base = other_base
        """What says that the adapter was trained on another base; None if nothing does."""
        self.config = base.config
        """The base's parsed ``config.json``."""
        self._settings = settings
        self._changes = changes
        self._adapter_bytes_read = 0
        self._lock = threading.Lock()

    @property
    def changes(self) -> Changes:
        """What the adapter changes, by the base's tensor names."""
        return self._changes

    def modules(self) -> dict[str, str]:
        """Return the base's name of every adapted weight, and PEFT's name of its module."""
        return module_names(self.base, read_header(self.path / ADAPTER_FILE))

    @property
    def tokenizer_folder(self) -> Path:
        """The adapter's folder where it holds a tokenizer, else the base's."""
        return folder_with_tokenizer(self.path, self.base.path)

    @property
    def names(self) -> tuple[str, ...]:
        """The base's :attr:`~seme.checkpoint.reader.Checkpoint.names`."""
        return self.base.names

    @property
    def nbytes(self) -> int:
        """Bytes that reading every tensor once reads, of base and adapter."""
        replaced, adapted = self._changes.replaced, self._changes.adapted
        return (
            sum(self.base.spec(name).nbytes for name in self.names if name not in replaced)
            + sum(stored.spec.nbytes for stored in replaced.values())
            + sum(factors.nbytes for factors in adapted.values())
        )

    @property
    def bytes_read(self) -> int:
        """Bytes of tensors read so far, of base and adapter, for a merge or a hash."""
        return self.base.bytes_read + self._adapter_bytes_read

    def spec(self, name: str) -> TensorSpec:
        """Return dtype and shape of a tensor as :meth:`read` gives it."""
        if name in self._changes.adapted:
            return TensorSpec(dtype=torch.float32, shape=self.base.shape(name))
        if name in self._changes.replaced:
            return self._changes.replaced[name].spec
        return self.base.spec(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, from the header."""
        return self.spec(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Return float32 for an adapted tensor, for the others the dtype on disk."""
        return self.spec(name).dtype

    def read(self, name: str) -> Tensor:
        """Read one tensor, on the CPU, with the adapter's change; nothing is cached.

        An adapted tensor is float32, rounded once from the float64 sum. It is not rounded to
        the base's dtype, which would lose small changes of a bfloat16 base.
        """
        shape = self.shape(name)
        return self.opened(name).read(0, math.prod(shape)).view(shape)

    def opened(self, name: str) -> Readable:
        """Open one tensor, to be read in pieces from any thread; see :meth:`read`."""
        replacement = self._changes.replaced.get(name)
        weight = (
            self.base.opened(name) if replacement is None else self._open(name, replacement)
        )
        if name not in self._changes.adapted:
            return weight
        return AdaptedTensor(weight, self.factors(name))

    def factors(self, name: str) -> Factors:
        """Read the factors of an adapted tensor."""
        stored = self._changes.adapted[name]
        self._count(stored.nbytes)
        return stored.read()

    def _open(self, name: str, stored: StoredTensor) -> OpenedTensor:
        """Open a tensor of the adapter's file."""
        return OpenedTensor(stored, OpenFile(stored.path), name, self._count)

    def _count(self, n_bytes: int) -> None:
        with self._lock:
            self._adapter_bytes_read += n_bytes

    def model_files(self) -> tuple[Path, ...]:
        """Return the base's config, tokenizer and chat template, sorted."""
        return self.base.model_files()

    def content_hash(self) -> str:
        """Hash the model's content: the base, the adapter's tensors, the settings that matter.

        Returns:
            xxh3_128 in hexadecimal, cached until a file of base or adapter changes.
        """
        return self.content_hash_on(self.base.content_hash())

    def content_hash_on(self, base: str) -> str:
        """Return :meth:`content_hash`, given that of the base."""
        files = [self.path / ADAPTER_CONFIG, self.path / ADAPTER_FILE]
        adapter = cached_hash(files, self._compute_hash)
        return xxhash.xxh3_128_hexdigest(f"{base}\0{adapter}".encode())

    def _compute_hash(self) -> str:
        settings = json.dumps(self._settings.as_json())
        digest = xxhash.xxh3_128(settings.encode())
        for name, stored in sorted(read_header(self.path / ADAPTER_FILE).items()):
            digest.update(f"{name}\0{stored.spec.dtype}\0{stored.spec.shape}\0".encode())
            for block in stored.blocks():
                digest.update(block)
                self._count(len(block))
        return digest.hexdigest()


AnyCheckpoint = Checkpoint | AdaptedCheckpoint
"""A source: a model of its own, or an adapter with its base."""


def open_adapter(
    location: str | Path,
    *,
    revision: str | None = None,
    base: str | Path | None = None,
    base_revision: str | None = None,
    root: Path,
) -> AdaptedCheckpoint:
    """Open a LoRA adapter as PEFT saves it, with its base; no weights are read.

    Args:
        location: The adapter: a folder, relative to ``root`` or absolute, or a Hub id.
        revision: Branch, tag or commit of the adapter; for Hub ids only.
        base: The base in the same terms; None for the one the adapter's configuration names,
            in the revision it names.
        base_revision: Branch, tag or commit of ``base``; for Hub ids only.
        root: Folder that relative paths start from: the repository's root.

    Returns:
        The base with the adapter's changes, ready to be read.

    Raises:
        ValueError: If either cannot be found or read, the adapter uses an unsupported feature,
            or it does not fit the base.
    """
    adapter = locate(location, revision=revision, root=root)
    folder = adapter.folder
    config = read_object(folder / ADAPTER_CONFIG, of="a PEFT adapter")
    file = find_file(folder, ADAPTER_FILE)
    if file is None:
        raise ValueError(
            f"{folder} has no {ADAPTER_FILE}: adapters are read from safetensors only; save it "
            "with PEFT's save_pretrained(safe_serialization=True)"
        )
    other_base = None
    if base is not None:
        other_base = disagreement(config, base, base_revision, root=root)
    else:
        base, base_revision = config.get("base_model_name_or_path"), config.get("revision")
        _refuse_file(base, folder, root)
    if not isinstance(base, str | Path) or not str(base):
        raise ValueError(f"{folder} does not name its base in {ADAPTER_CONFIG}: give the base")
    with _noting(f"while opening the base of the adapter {folder}"):
        opened = open_model(base, revision=base_revision, root=root)
    with _noting(f"while reading the adapter {folder} of the base {opened.path}"):
        settings = parse_lora_config(config)
        changes = match_tensors(opened, settings, read_header(file))
    return AdaptedCheckpoint(adapter, opened, settings, changes, other_base=other_base)


def _refuse_file(base: object, folder: Path, root: Path) -> None:
    """Refuse a file that an adapter names as its base and that is no GGUF: it is not opened."""
    place = expanded(base, root) if isinstance(base, str) else None
    if place is not None and place.suffix != ".gguf" and place.is_file():
        raise ValueError(
            f"{folder} names the file {shown(base)} as its base in {ADAPTER_CONFIG}, expected a "
            "folder, a .gguf file or a Hub id: give the base"
        )


def content_hashes(checkpoints: Sequence[AnyCheckpoint]) -> list[str]:
    """Hash several models in a thread pool: reading and hashing release Python's global lock.

    A folder is hashed once, however often it occurs or is the base of adapters.

    Args:
        checkpoints: The models, any number.

    Returns:
        ``content_hash()`` of each, in order.

    Raises:
        ValueError: If a file has become shorter since its header was read.
    """
    made = (AdaptedCheckpoint, StackedCheckpoint)
    bases = [model.base if isinstance(model, made) else model for model in checkpoints]
    folders = {base.path.resolve(): base for base in bases}
    with ThreadPoolExecutor(_HASH_THREADS, thread_name_prefix="seme-hash") as pool:
        hashes = pool.map(Checkpoint.content_hash, folders.values())
        by_folder = dict(zip(folders, hashes, strict=True))
    return [
        model.content_hash_on(by_folder[base.path.resolve()])
        if isinstance(model, made)
        else by_folder[base.path.resolve()]
        for model, base in zip(checkpoints, bases, strict=True)
    ]


@contextlib.contextmanager
def _noting(note: str) -> Iterator[None]:
    """Add a note to a ValueError."""
    try:
        yield
    except ValueError as error:
        error.add_note(note)
        raise
