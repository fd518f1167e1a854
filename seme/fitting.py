"""Fitting of the sources to the pivot: rows, tokens and tensors that are not merged."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seme.architecture.families import family_of
from seme.architecture.model import CanonicalModel, places_in
from seme.architecture.readouts import readout_of
from seme.checkpoint.protocol import Readable, Weights, describe
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.renamed import NamedSource
from seme.checkpoint.safetensors_file import TensorSpec
from seme.compatibility import check_comparable, demand_same_tensors, differences
from seme.embedding_rows import MergeableSource, fit_rows
from seme.interface import CheckpointMismatchError
from seme.settings import MergeSettings
from seme.token_rows import TokenizerComparison


class CompletedSource:
    """A source whose tensors that are not merged are the pivot's.

    Implements :class:`seme.checkpoint.protocol.Weights`.
    """

    def __init__(self, pivot: Checkpoint, source: NamedSource, own: Collection[str]) -> None:
        """Remember both; nothing is read.

        Args:
            pivot: Gives the names, and the tensors that are not merged.
            source: The source.
            own: Names of the tensors read from it.
        """
        self.source = source
        self.path: Path = source.path
        self.config: Mapping[str, Any] = source.config
        self.names: tuple[str, ...] = pivot.names
        self._pivot = pivot
        self._own = frozenset(own)

    @property
    def tokenizer_folder(self) -> Path:
        return self.source.tokenizer_folder

    def spec(self, name: str) -> TensorSpec:
        """Return dtype and shape of a tensor."""
        return self._of(name).spec(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.spec(name).shape

    def dtype(self, name: str) -> torch.dtype:
        return self.spec(name).dtype

    def read(self, name: str) -> Tensor:
        return self._of(name).read(name)

    def opened(self, name: str) -> Readable:
        return self._of(name).opened(name)

    def _of(self, name: str) -> NamedSource:
        return self.source if name in self._own else self._pivot


FittingSource = MergeableSource | CompletedSource


def fit_sources(
    pivot: Checkpoint,
    sources: Sequence[NamedSource],
    copied: Collection[str],
    *,
    any_shape: bool,
    settings: MergeSettings,
) -> tuple[tuple[FittingSource, ...], list[str]]:
    """Check that every source can be merged into the pivot, and read it in the pivot's shape.

    Args:
        pivot: The model merged into.
        sources: Models merged from, under the pivot's names.
        copied: The pivot's tensors that are not merged.
        any_shape: The method takes sources of any shape and matches tokens by their text: only
            tensors that are not merged are made to fit.
        settings: ``include``, ``exclude`` and ``tokens`` are used.

    Returns:
        The sources, and what was done with their rows, one line each.

    Raises:
        CheckpointMismatchError: If a source's tensors or tokens do not fit the pivot's.
        ValueError: If a source of another shape is not whole.
    """
    patterns = {"include": settings.include, "exclude": settings.exclude}
    comparison = TokenizerComparison(pivot, copied, settings.tokens)
    if any_shape:
        for i, source in enumerate(sources):
            comparison.refuse_by_id(i, source)
        whole = tuple(_completed(pivot, source, copied, **patterns) for source in sources)
        for i, model in enumerate(whole):
            if differences(pivot, model):
                _demand_whole(i, model, leaves_out=bool(settings.exclude))
                if pivot.config.get("model_type") != model.config.get("model_type"):
                    _demand_one_kind(pivot, i, model)
        return whole, []
    fitted = tuple(fit_rows(pivot, source) for source in sources)
    demand_same_tensors(pivot, fitted, **patterns)
    settled = [comparison.settle(i, source) for i, source in enumerate(fitted)]
    return tuple(source for source, _ in settled), [line for _, of in settled for line in of]


def _completed(
    pivot: Checkpoint,
    source: NamedSource,
    copied: Collection[str],
    *,
    include: Sequence[str],
    exclude: Sequence[str],
) -> NamedSource | CompletedSource:
    """Complete a source that differs from the pivot in tensors that are not merged alone."""
    if not differences(pivot, source):
        return source
    if differences(pivot, source, include=include, exclude=exclude):
        return source  # of another shape
    own = {
        name
        for name in pivot.names
        if name in source.names and (name not in copied or _are_alike(name, pivot, source))
    }
    if not _readout(pivot) <= own:
        return source  # compared by it: the method says that it is lacking
    return CompletedSource(pivot, source, own)


def _demand_whole(index: int, source: FittingSource, *, leaves_out: bool) -> None:
    """Refuse a source of another shape that lacks a tensor: it is rewritten as a whole."""
    try:
        places_in(family_of(source.config), source.names)
    except ValueError as error:
        also = ", tensors that are not merged among it" if leaves_out else ""
        raise ValueError(
            f"{describe(index, source)} is of another shape than the pivot, and must be rewritten "
            f"as a whole{also}: {error}"
        ) from error


def _demand_one_kind(pivot: Checkpoint, index: int, source: FittingSource) -> None:
    """Refuse a source of another architecture that the pivot's cannot express."""
    models = [CanonicalModel(model, device=torch.device("cpu")) for model in (pivot, source)]
    try:
        check_comparable(*models)
    except ValueError as error:
        raise CheckpointMismatchError(f"{describe(index, source)}: {error}") from error


def _are_alike(name: str, pivot: Weights, source: Weights) -> bool:
    expected, stored = pivot.dtype(name), source.dtype(name)
    return (
        pivot.shape(name) == source.shape(name)
        and expected.is_floating_point == stored.is_floating_point
    )


def _readout(pivot: Checkpoint) -> set[str]:
    """Return the tensors that a method compares models by; none in an unknown architecture."""
    try:
        readout = readout_of(pivot.config, pivot.names)
    except ValueError:
        return set()
    return {readout.head, readout.norm}
