"""Aligned source: a checkpoint with the pivot's tensor names and shapes, in its frame.

SeMe, https://arxiv.org/abs/2505.20144. Paper: the map between latent spaces and the
interpolation over layers. Ours: units matched inside a layer, rows matched token by token, and
the pivot's own weights where the source has no counterpart.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seme.alignment.diagnosis import collect_seconds, stage
from seme.alignment.frames import Frame
from seme.alignment.layers import express_block
from seme.alignment.transform import (
    ATTENTION,
    MLP,
    Parts,
    read_block,
    restrict_part,
    restrict_to_heads,
    restrict_to_neurons,
    turn_part,
)
from seme.architecture.folding import FoldedModel, FoldedWeights
from seme.architecture.parts import Part, Place
from seme.checkpoint.protocol import Held, Weights

_ROWS_ARE_TOKENS = (Part.EMBEDDING, Part.HEAD)


class AlignedSource:
    """Weights of a source, rewritten on reading; see :class:`seme.checkpoint.protocol.Weights`.

    A block's tensors are computed together and cached until another block is read.
    """

    def __init__(
        self,
        pivot: FoldedWeights,
        source: FoldedModel,
        frame: Frame,
        seconds: dict[str, float],
    ) -> None:
        """Rewrite ``source`` by ``frame``; ``seconds`` collects those of ``transformation``."""
        self._seconds = seconds
        self._pivot = pivot
        self._source = source
        self._frame = frame
        self._block: tuple[tuple[int, bool], Parts] | None = None

    @property
    def path(self) -> Path:
        return self._source.canonical.weights.path

    @property
    def tokenizer_folder(self) -> Path:
        return self._source.canonical.weights.tokenizer_folder

    @property
    def config(self) -> Mapping[str, Any]:
        return self._pivot.config

    @property
    def names(self) -> tuple[str, ...]:
        return self._pivot.names

    def shape(self, name: str) -> tuple[int, ...]:
        return self._pivot.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._pivot.dtype(name)

    def read(self, name: str) -> Tensor:
        """Read a tensor of the pivot's name and shape, float32; constants are the pivot's."""
        places = self._pivot.places_of(name)
        if any(place.part is Part.CONSTANT for place in places):
            return self._pivot.read(name)
        with collect_seconds(self._seconds), stage("transformation"):
            return self._pivot.assemble(name, {p: self._part(p) for p in places})

    def opened(self, name: str) -> Held:
        """Rewrite a tensor, to be read in pieces."""
        return Held(self.read(name))

    def alike(self, other: Weights) -> "AlignedSource":
        """Rewrite another model of the source's shape by the source's frame."""
        return AlignedSource(self._pivot, self._source.alike(other), self._frame, self._seconds)

    def _part(self, place: Place) -> Tensor:
        if place.layer is None:
            return self._end(place)
        attention = place.part in ATTENTION
        if self._block is None or self._block[0] != (place.layer, attention):
            self._block = (place.layer, attention), self._filled_block(place.layer, attention)
        return self._block[1][place.part]

    def _end(self, place: Place) -> Tensor:
        """Map an embedding, the LM head or the final norm; unmatched rows are the pivot's."""
        part, turn = place.part, self._frame.turn
        pivot = self._pivot.model.read(place)
        values = turn_part(part, self._source.read(place), turn, normed=True)
        if self._frame.tokens is None and len(values) == len(pivot):
            return _filled(values, pivot, restrict_part(part, pivot, turn))
        rows = torch.arange(min(len(pivot), len(values)), device=pivot.device)
        source_rows = rows
        if part in _ROWS_ARE_TOKENS and self._frame.tokens is not None:
            rows, source_rows = self._frame.tokens.pivot_rows, self._frame.tokens.source_rows
        own, filled = pivot[rows], pivot.clone()
        filled[rows] = _filled(values[source_rows], own, restrict_part(part, own, turn))
        return filled

    def _filled_block(self, layer: int, attention: bool) -> Parts:
        """Interpolate the source's layers at a layer of the pivot (paper)."""
        model, turn = self._pivot.model, self._frame.turn
        pivot = read_block(model.read, model.canonical, ATTENTION if attention else MLP, layer)
        in_range = {part: restrict_part(part, values, turn) for part, values in pivot.items()}
        total: Parts = {}
        for match in self._frame.layers[layer]:
            source = express_block(self._source, turn, match, attention=attention)
            restricted = in_range
            if attention and match.heads is not None:
                restricted = restrict_to_heads(in_range, match.heads, model.canonical, layer)
            if not attention and match.neurons is not None:
                restricted = restrict_to_neurons(in_range, match.neurons)
            for part, own in pivot.items():
                values = source.get(part, torch.zeros_like(own))  # a bias only the pivot has
                filled = _filled(values, own, restricted[part])
                total[part] = (
                    total[part].add_(filled, alpha=match.share)
                    if part in total
                    else filled.mul(match.share)
                )
        return total


def _filled(source: Tensor, pivot: Tensor, restricted: Tensor) -> Tensor:
    """Add the rest of the pivot, for which the source has no counterpart; none: no rounding."""
    return source if restricted is pivot else source + (pivot - restricted)
