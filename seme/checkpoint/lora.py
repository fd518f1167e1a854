"""A checkpoint that is a base and a LoRA adapter: read as the model the two make together."""

import json
import math
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
import xxhash
from torch import Tensor

from seme.checkpoint.hash_cache import remembered
from seme.checkpoint.lora_config import LoraSettings, lora_settings
from seme.checkpoint.lora_tensors import AdaptedTensor, Changes, changes_of
from seme.checkpoint.model_folder import Located, locate, read_object
from seme.checkpoint.protocol import Readable
from seme.checkpoint.reader import Checkpoint, open_checkpoint
from seme.checkpoint.safetensors_file import (
    OpenedTensor,
    OpenFile,
    StoredTensor,
    TensorSpec,
    read_header,
)

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"

_T = TypeVar("_T")


class AdaptedCheckpoint:
    """A base with an adapter's changes; implements :class:`seme.checkpoint.protocol.Weights`."""

    def __init__(
        self, found: Located, base: Checkpoint, settings: LoraSettings, changes: Changes
    ) -> None:
        """Combine the two; :func:`open_adapter` does the checking.

        Args:
            found: The adapter's folder.
            base: Opened for this adapter alone: what is read of it counts as read here.
            settings: What the adapter's configuration says.
            changes: What the adapter's file holds.
        """
        self.path = found.folder
        """The adapter's folder."""
        self.commit = found.commit
        """Commit of the adapter's Hub repository; the base has its own. None for folders."""
        self.base = base
        self.config = base.config
        """The base's parsed ``config.json``."""
        self.dropped = base.dropped
        """Stored tensors that are no tensors of their own, with the reason."""
        self._settings = settings
        self._changes = changes
        self._adapter_bytes_read = 0
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The base's: names of all tensors, sorted; a tied tensor stands once."""
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
        """Bytes of tensors read so far, of base and adapter."""
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

        An adapted tensor comes in float32, rounded once from the exact sum: it is not put back
        into the base's dtype, so a small change of a bfloat16 base is there in full.
        """
        shape = self.shape(name)
        return self.opened(name).read(0, math.prod(shape)).view(shape)

    def opened(self, name: str) -> Readable:
        """Open one tensor, to be read in pieces from any thread; see :meth:`read`."""
        replacement = self._changes.replaced.get(name)
        weight = (
            self.base.opened(name) if replacement is None else self._open(name, replacement)
        )
        stored = self._changes.adapted.get(name)
        if stored is None:
            return weight
        self._count(stored.nbytes)
        return AdaptedTensor(weight, stored.read())

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
        """Hash what the model is: the base, the adapter's tensors, the settings that count.

        Returns:
            xxh3_128 in hexadecimal, cached until a file of base or adapter changes.
        """
        return self.content_hash_on(self.base.content_hash())

    def content_hash_on(self, base: str) -> str:
        """The same of the adapter on a base whose hash is known."""
        files = [self.path / ADAPTER_CONFIG, self.path / ADAPTER_FILE]
        adapter = remembered(files, self._compute_hash)
        return xxhash.xxh3_128_hexdigest(f"{base}\0{adapter}".encode())

    def _compute_hash(self) -> str:
        settings = json.dumps(
            asdict(self._settings)
        )  # in order: of two patterns the first wins
        digest = xxhash.xxh3_128(settings.encode())
        for name, stored in sorted(read_header(self.path / ADAPTER_FILE).items()):
            digest.update(f"{name}\0{stored.spec.dtype}\0{stored.spec.shape}\0".encode())
            for block in stored.blocks():
                digest.update(block)
        return digest.hexdigest()


AnyCheckpoint = Checkpoint | AdaptedCheckpoint
"""What sources may be."""


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
        ValueError: If either cannot be found or read, the adapter is of a kind whose weights
            cannot be told exactly, or it does not fit the base.
    """
    found = locate(location, revision=revision, root=root)
    folder = found.folder
    config = read_object(folder / ADAPTER_CONFIG, of="a PEFT adapter")
    file = folder / ADAPTER_FILE
    if not file.is_file():
        raise ValueError(
            f"{folder} has no {ADAPTER_FILE}: adapters are read from safetensors only; save it "
            "with PEFT's save_pretrained(safe_serialization=True)"
        )
    named = base if base is not None else config.get("base_model_name_or_path")
    if not isinstance(named, str | Path) or not str(named):
        raise ValueError(f"{folder} does not name its base in {ADAPTER_CONFIG}: give the base")
    named_revision = base_revision if base is not None else config.get("revision")
    opened = _noted(
        f"while opening the base of the adapter {folder}",
        lambda: open_checkpoint(named, revision=named_revision, root=root),
    )
    reading = f"while reading the adapter {folder} of the base {opened.path}"
    settings = _noted(reading, lambda: lora_settings(config))
    changes = _noted(reading, lambda: changes_of(opened, settings, read_header(file)))
    return AdaptedCheckpoint(found, opened, settings, changes)


def _noted(note: str, work: Callable[[], _T]) -> _T:
    """Do the work; what the user can fix is told with where it was."""
    try:
        return work()
    except ValueError as error:
        error.add_note(note)
        raise
