"""What a checkpoint is to everything that reads it: names, shapes, tensors, parts of tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class Readable(Protocol):
    """One tensor of a checkpoint, opened; may be read from several threads at once."""

    def read(self, start: int, stop: int) -> Tensor:
        """Read the elements [start, stop) of the flat tensor, 1-D, in the tensor's dtype."""
        ...


class Weights(Protocol):
    """A checkpoint as methods see it: names, shapes, configuration, one tensor at a time."""

    @property
    def path(self) -> Path:
        """The model's folder, for its tokenizer."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The parsed ``config.json``."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors on disk, sorted; a tied tensor stands once."""
        ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype:
        """The dtype on disk."""
        ...

    def read(self, name: str) -> Tensor:
        """Read one tensor: in its own dtype from disk, in float32 if it was rewritten."""
        ...

    def opened(self, name: str) -> Readable:
        """Open one tensor, to be read in pieces."""
        ...


def describe(index: int, source: Weights) -> str:
    """Name a source in a message: its place in the configuration and its folder."""
    return f"source {index} ({source.path})"


class Held:
    """A tensor in memory, as one that was opened; implements :class:`Readable`."""

    def __init__(self, tensor: Tensor) -> None:
        self._flat = tensor.reshape(-1)

    def read(self, start: int, stop: int) -> Tensor:
        return self._flat[start:stop]
