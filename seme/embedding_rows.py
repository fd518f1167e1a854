"""Embedding rows: sources with more or fewer rows than the pivot, read in the pivot's shape.

Fine-tunes add rows for new tokens (32001 against 32000) or pad them to a round number (128320
against 128256). Where the two tokenizers agree, a row that both have is merged; a row that the
source lacks is read from the pivot, so that the source changes nothing there; a row that the
pivot lacks is left out (ours).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seme.alignment.tokens import read_vocabulary
from seme.architecture.families import EMBEDDINGS, HEADS
from seme.checkpoint.lora import AdaptedCheckpoint
from seme.checkpoint.protocol import Readable, describe
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.renamed import NamedSource, RenamedSource
from seme.checkpoint.safetensors_file import TensorSpec
from seme.interface import CheckpointMismatchError

_N_NAMED = 3
_WAY_OUT = (
    "merge the layers alone with exclude=['*embed_tokens*','lm_head*'] (the names as in this "
    "checkpoint), which keeps the pivot's embeddings, or use method=seme, which matches tokens "
    "by their text"
)


class FittedSource:
    """A source in the pivot's shape; implements :class:`seme.checkpoint.protocol.Weights`."""

    def __init__(self, pivot: Checkpoint, source: NamedSource, rows: Mapping[str, int]) -> None:
        """Remember both; nothing is read.

        Args:
            pivot: Gives the shapes, and the rows that the source lacks.
            source: A model with the pivot's tensors but for the number of some rows.
            rows: Rows that both models have, of each tensor in which their numbers differ.
        """
        self.source = source
        self.rows = rows
        self.path: Path = source.path
        self.config: Mapping[str, Any] = source.config
        self.names: tuple[str, ...] = source.names
        self._pivot = pivot

    def spec(self, name: str) -> TensorSpec:
        """Return the pivot's shape; float32 where rows of two dtypes come together."""
        own = self.source.spec(name)
        if name not in self.rows:
            return own
        shape, dtype = self._pivot.shape(name), own.dtype
        if self.rows[name] < shape[0] and self._pivot.dtype(name) != dtype:
            dtype = torch.float32
        return TensorSpec(dtype=dtype, shape=shape)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.spec(name).shape

    def dtype(self, name: str) -> torch.dtype:
        return self.spec(name).dtype

    def read(self, name: str) -> Tensor:
        """Read one tensor whole, on the CPU; nothing is cached."""
        shape = self.shape(name)
        return self.opened(name).read(0, math.prod(shape)).view(shape)

    def opened(self, name: str) -> Readable:
        """Open one tensor, to be read in pieces from any thread."""
        own = self.source.opened(name)
        if name not in self.rows:
            return own
        spec = self.spec(name)
        n_own = self.rows[name] * math.prod(spec.shape[1:])
        return _FittedTensor(own, self._pivot.opened(name), n_own, spec.dtype)


class _FittedTensor:
    """Rows of a source, then rows of the pivot; a :class:`Readable`."""

    def __init__(self, own: Readable, pivot: Readable, n_own: int, dtype: torch.dtype) -> None:
        self._own = own
        self._pivot = pivot
        self._n_own = n_own
        """Elements of the source's rows."""
        self._dtype = dtype

    def read(self, start: int, stop: int) -> Tensor:
        """Read the elements [start, stop) of the flat tensor, 1-D."""
        if stop <= self._n_own:
            return self._own.read(start, stop).to(self._dtype)
        kept = self._pivot.read(max(start, self._n_own), stop).to(self._dtype)
        if start >= self._n_own:
            return kept
        return torch.cat([self._own.read(start, self._n_own).to(self._dtype), kept])


MergeableSource = NamedSource | FittedSource


def fit_rows(
    pivot: Checkpoint, sources: Sequence[NamedSource], copied: Collection[str] = ()
) -> tuple[MergeableSource, ...]:
    """Read sources whose embedding or LM head has other rows in the pivot's shape.

    Args:
        pivot: The model merged into.
        sources: The models merged from; those of the pivot's rows are returned as they are.
        copied: Tensors that are not merged: their tokens need not agree.

    Raises:
        CheckpointMismatchError: If the rows differ and the tokenizers give a common row to
            different tokens, or cannot be compared.
    """
    return tuple(_fitted(pivot, i, source, copied) for i, source in enumerate(sources))


def row_differences(sources: Sequence[MergeableSource]) -> list[str]:
    """List the fitted tensors, one line each, for the record and the plan."""
    return [
        f"{describe(i, source)}: {name} has {source.source.shape(name)[0]} rows, the pivot "
        f"{source.shape(name)[0]}: the first {n_rows} are merged, {_the_rest(source, name)}"
        for i, source in enumerate(sources)
        if isinstance(source, FittedSource)
        for name, n_rows in source.rows.items()
    ]


def _the_rest(source: FittedSource, name: str) -> str:
    n_pivot, n_common = source.shape(name)[0], source.rows[name]
    if n_common < n_pivot:
        return f"and the source leaves the pivot's other {n_pivot - n_common} as they are"
    return f"the source's other {source.source.shape(name)[0] - n_common} left out"


def _fitted(
    pivot: Checkpoint, index: int, source: NamedSource, copied: Collection[str]
) -> MergeableSource:
    rows = {
        name: min(pivot.shape(name)[0], source.shape(name)[0])
        for name in source.names
        if name.endswith((*EMBEDDINGS, *HEADS))
        and name in pivot.names
        and _differ_in_rows(pivot.shape(name), source.shape(name))
    }
    if not rows:
        return source
    merged = [n for name, n in rows.items() if name not in copied]
    if merged:
        _demand_same_tokens(pivot, index, source, max(merged))
    return FittedSource(pivot, source, rows)


def _differ_in_rows(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[1:] == other[1:] and shape[0] != other[0]


def _demand_same_tokens(
    pivot: Checkpoint, index: int, source: NamedSource, n_rows: int
) -> None:
    """Refuse a source whose tokenizer gives one of the common rows to another token."""
    whole = source.source if isinstance(source, RenamedSource) else source
    folder = whole.base.path if isinstance(whole, AdaptedCheckpoint) else whole.path
    cause = f"{describe(index, source)} has another number of embedding rows than the pivot"
    try:
        expected, other = (_tokens_by_id(path, n_rows) for path in (pivot.path, folder))
    except ValueError as error:
        raise CheckpointMismatchError(
            f"{cause}, and their tokenizers cannot be compared: {error}; put the tokenizer's "
            f"files into the folder, {_WAY_OUT}"
        ) from error
    differing = [i for i in sorted(expected.keys() & other.keys()) if expected[i] != other[i]]
    if differing:
        first = ", ".join(
            f"{i} is {_shown(expected[i])} in the pivot and {_shown(other[i])} in the source"
            for i in differing[:_N_NAMED]
        )
        raise CheckpointMismatchError(
            f"{cause}, and {len(differing)} of the common rows are of other tokens: id {first}; "
            f"{_WAY_OUT}"
        )


def _tokens_by_id(folder: Path, n_rows: int) -> dict[int, bytes]:
    """Map the ids below a number to the bytes of their tokens."""
    vocabulary = read_vocabulary(folder)
    texts = {i: text for text, ids in vocabulary.ids.items() for i in ids}
    texts |= {i: content.encode() for content, i in vocabulary.specials.items()}
    return {i: text for i, text in texts.items() if i < n_rows}


def _shown(token: bytes) -> str:
    return f"{token.decode(errors='replace')!r:.40}"
