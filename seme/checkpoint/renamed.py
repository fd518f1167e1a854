"""A source read under the pivot's tensor names, where one of them lacks an optional prefix."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seme.architecture.tensor_names import names_as_in
from seme.checkpoint.lora import AnyCheckpoint
from seme.checkpoint.protocol import Readable
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.safetensors_file import TensorSpec


class RenamedSource:
    """A source under other names; implements :class:`seme.checkpoint.protocol.Weights`."""

    def __init__(self, source: AnyCheckpoint, stored: Mapping[str, str]) -> None:
        """Rename the tensors; nothing is read.

        Args:
            source: The source.
            stored: Its own names by the new ones.
        """
        self.source = source
        self._stored = stored

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def tokenizer_folder(self) -> Path:
        return self.source.tokenizer_folder

    @property
    def config(self) -> Mapping[str, Any]:
        return self.source.config

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._stored))

    def spec(self, name: str) -> TensorSpec:
        """Return dtype and shape of a tensor."""
        return self.source.spec(self._stored[name])

    def shape(self, name: str) -> tuple[int, ...]:
        return self.spec(name).shape

    def dtype(self, name: str) -> torch.dtype:
        return self.spec(name).dtype

    def read(self, name: str) -> Tensor:
        return self.source.read(self._stored[name])

    def opened(self, name: str) -> Readable:
        return self.source.opened(self._stored[name])


NamedSource = AnyCheckpoint | RenamedSource


def in_names_of(pivot: Checkpoint, source: AnyCheckpoint) -> NamedSource:
    """Return a source under the pivot's names: itself where no prefix is lacking.

    GPT-2 on the Hub has ``h.0.ln_1.weight``, saved by transformers ``transformer.h.0...``.
    """
    stored = names_as_in(set(pivot.names), source.names)
    renamed = any(name != own for name, own in stored.items())
    return RenamedSource(source, stored) if renamed else source
