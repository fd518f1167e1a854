"""Embedding rows: sources with other rows than the pivot's, read row by row in its shape.

Fine-tunes add rows for new tokens (32001 against 32000) or pad them to a round number (128320
against 128256): a row that both have is merged; one that the source lacks is read from the
pivot, so that the source changes nothing there; one that the pivot lacks is left out (ours).
Rows of another order of tokens are read in the pivot's (:mod:`seme.token_rows`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seme.architecture.families import EMBEDDINGS, HEADS
from seme.checkpoint.protocol import Readable, Weights, describe
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.renamed import NamedSource
from seme.checkpoint.safetensors_file import TensorSpec

_SUFFIXES = (
    *EMBEDDINGS,
    *HEADS,
    *(".embeddings.weight", "tok_embeddings.weight", "embed_tokens_per_layer.weight"),
    *("lm_head.bias", "embed_out.bias"),
)
_HEADS = ("head.weight", "output.weight")
"""Whole names, of RWKV and InternLM."""


class FittedSource:
    """A source in the pivot's shape; implements :class:`seme.checkpoint.protocol.Weights`."""

    def __init__(
        self, pivot: Checkpoint, source: NamedSource, rows: Mapping[str, Tensor]
    ) -> None:
        """Remember both; nothing is read.

        Args:
            pivot: Gives the shapes, and the rows that the source lacks.
            source: A model with the pivot's tensors but for rows of some.
            rows: Of each such tensor the source's row at each row of the pivot, int64; -1 for
                the pivot's own.
        """
        self.source = source
        self.rows = rows
        self.path: Path = source.path
        self.config: Mapping[str, Any] = source.config
        self.names: tuple[str, ...] = source.names
        self._pivot = pivot

    @property
    def tokenizer_folder(self) -> Path:
        return self.source.tokenizer_folder

    def spec(self, name: str) -> TensorSpec:
        """Return the pivot's shape; float32 where rows of two dtypes come together."""
        own = self.source.spec(name)
        if name not in self.rows:
            return own
        dtype = own.dtype
        if bool((self.rows[name] < 0).any()) and self._pivot.dtype(name) != dtype:
            dtype = torch.float32
        return TensorSpec(dtype=dtype, shape=self._pivot.shape(name))

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
        return _FittedTensor(own, self._pivot.opened(name), self.rows[name], spec)


class _FittedTensor:
    """Rows of a source among rows of the pivot; a :class:`Readable`."""

    def __init__(self, own: Readable, pivot: Readable, rows: Tensor, spec: TensorSpec) -> None:
        self._own = own
        self._pivot = pivot
        self._rows = rows
        self._width = math.prod(spec.shape[1:])
        self._dtype = spec.dtype

    def read(self, start: int, stop: int) -> Tensor:
        """Read the elements [start, stop) of the flat tensor, 1-D."""
        pieces = [
            (self._pivot if origin < 0 else self._own).read(start + shift, stop + shift)
            for origin, shift, start, stop in self._runs(start, stop)
        ]
        return torch.cat([piece.to(self._dtype) for piece in pieces])

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield stretches of rows that lie together: first row, shift, start and stop."""
        width = self._width
        first = start // width
        rows = self._rows[first : -(-stop // width)]
        before, after = rows[:-1], rows[1:]
        together = ((before >= 0) & (after == before + 1)) | ((before < 0) & (after < 0))
        edges = [0, *((~together).nonzero().flatten() + 1).tolist(), len(rows)]
        for i in range(len(edges) - 1):
            place, origin = first + edges[i], int(rows[edges[i]])
            shift = 0 if origin < 0 else (origin - place) * width
            end = (first + edges[i + 1]) * width
            yield origin, shift, max(start, place * width), min(stop, end)


MergeableSource = NamedSource | FittedSource


def vocabulary_tensors(model: Weights) -> tuple[str, ...]:
    """Return the names of the tensors whose rows are tokens: embeddings, LM head, its bias."""
    return tuple(n for n in model.names if n.endswith(_SUFFIXES) or n in _HEADS)


def fit_rows(pivot: Checkpoint, source: NamedSource) -> MergeableSource:
    """Read a source with more or fewer tokens than the pivot in its shape, row for row.

    Args:
        pivot: The model merged into.
        source: A model merged from; one of the pivot's rows is returned as it is.
    """
    rows = {
        name: _first_rows(pivot.shape(name)[0], source.shape(name)[0])
        for name in vocabulary_tensors(pivot)
        if name in source.names and _differ_in_rows(pivot.shape(name), source.shape(name))
    }
    return FittedSource(pivot, source, rows) if rows else source


def row_differences(index: int, source: MergeableSource) -> list[str]:
    """List the fitted tensors of a source, one line each, for the record and the plan."""
    if not isinstance(source, FittedSource):
        return []
    return [
        f"{describe(index, source)}: {name} has {n_source} rows, the pivot {len(rows)}: the "
        f"first {min(n_source, len(rows))} are merged, {_the_rest(n_source, len(rows))}"
        for name, rows in source.rows.items()
        for n_source in (source.source.shape(name)[0],)
    ]


def _the_rest(n_source: int, n_pivot: int) -> str:
    if n_source < n_pivot:
        return f"and the source leaves the pivot's other {n_pivot - n_source} as they are"
    return f"the source's other {n_source - n_pivot} left out"


def _first_rows(n_pivot: int, n_source: int) -> Tensor:
    rows = torch.arange(n_pivot)
    return torch.where(rows < n_source, rows, -1)


def _differ_in_rows(shape: Sequence[int], other: Sequence[int]) -> bool:
    return len(shape) == len(other) and shape[1:] == other[1:] and shape[0] != other[0]
