"""Checkpoint protocol: names, shapes, configuration, and tensors read whole or in pieces."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class Readable(Protocol):
    """An opened tensor of a checkpoint; may be read from several threads at once."""

    def read(self, start: int, stop: int) -> Tensor:
        """Read the elements [start, stop) of the flat tensor, 1-D, in the tensor's dtype."""
        ...


class Weights(Protocol):
    """A checkpoint as methods see it."""

    @property
    def path(self) -> Path:
        """The model's folder."""
        ...

    @property
    def tokenizer_folder(self) -> Path:
        """Folder of the model's tokenizer, if it has one."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The parsed ``config.json``."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted; embedding and LM head, if tied, have one name."""
        ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype:
        """The dtype on disk."""
        ...

    def read(self, name: str) -> Tensor:
        """Read one tensor: in its dtype on disk, or float32 if it is computed from others."""
        ...

    def opened(self, name: str) -> Readable:
        """Open one tensor, to be read in pieces."""
        ...


def describe(index: int, source: Weights) -> str:
    """Name a source in a message: its index in ``models.sources``, from 0, and its folder."""
    return f"source {index} ({source.path})"


class Held:
    """A tensor in memory; implements :class:`Readable`."""

    def __init__(self, tensor: Tensor) -> None:
        self._flat = tensor.reshape(-1)

    def read(self, start: int, stop: int) -> Tensor:
        return self._flat[start:stop]
