"""A source as the pivot would store it: tensors of the pivot's names, in the pivot's frame.

SeMe, https://arxiv.org/abs/2505.20144. Paper: the map between latent spaces and the interpolation
over layers. Ours: units matched inside a layer, rows matched token by token, and the rule that a
source says nothing where it has no counterpart: the pivot's own weights stay there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seme.alignment.attention import HeadMatch
from seme.alignment.mlp import NeuronMatch
from seme.alignment.residual_map import ResidualMap
from seme.alignment.stopwatch import Stopwatch
from seme.alignment.tokens import SharedTokens
from seme.alignment.transform import (
    ATTENTION,
    FINAL_NORMS,
    MLP,
    Parts,
    place_heads,
    place_neurons,
    read_block,
    restrict_part,
    restrict_to_heads,
    restrict_to_neurons,
    turn_block,
    turn_final_norm,
    turn_part,
    width_scale,
)
from seme.architecture.folding import FoldedModel, FoldedWeights
from seme.architecture.parts import Part, Place
from seme.checkpoint.protocol import Held

_ROWS_ARE_TOKENS = (Part.EMBEDDING, Part.HEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMatch:
    """A layer of the source at a layer of the pivot."""

    layer: int
    """Layer of the source."""
    share: float
    """Its share in what stands at the pivot's layer, in (0, 1]."""
    heads: HeadMatch | None
    """None: head for head."""
    neurons: NeuronMatch | None
    """None: neuron for neuron."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """All that takes a source to the pivot."""

    turn: ResidualMap | None
    """T; None in the pivot's own frame."""
    tokens: SharedTokens | None
    """None: row for row."""
    layers: tuple[tuple[LayerMatch, ...], ...]
    """What stands at each layer of the pivot."""


class AlignedSource:
    """The tensors of a source, rewritten on reading; implements :class:`seme.checkpoint.protocol.Weights`.

    A block's tensors are computed together and kept until another block is asked for.
    """

    def __init__(
        self, pivot: FoldedWeights, source: FoldedModel, frame: Frame, watch: Stopwatch
    ) -> None:
        """Rewrite ``source`` as ``frame`` says; ``watch`` takes the seconds that takes."""
        self._watch = watch
        self._pivot = pivot
        self._source = source
        self._frame = frame
        self._block: tuple[tuple[int, bool], Parts] | None = None

    @property
    def path(self) -> Path:
        return self._source.anatomy.weights.path

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
        """Read what the source has to say of a tensor of the pivot, float32."""
        places = self._pivot.places_of(name)
        if any(place.part is Part.CONSTANT for place in places):
            return self._pivot.read(name)
        return self._watch.time(
            "transformation",
            lambda: self._pivot.assemble(name, {p: self._part(p) for p in places}),
        )

    def opened(self, name: str) -> Held:
        """Rewrite a tensor, to be read in pieces."""
        return Held(self.read(name))

    def _part(self, place: Place) -> Tensor:
        if place.layer is None:
            return self._end(place)
        attention = place.part in ATTENTION
        if self._block is None or self._block[0] != (place.layer, attention):
            self._block = (place.layer, attention), self._filled_block(place.layer, attention)
        return self._block[1][place.part]

    def _end(self, place: Place) -> Tensor:
        """An embedding, the head or the final norm; rows without a counterpart are the pivot's."""
        part, turn = place.part, self._frame.turn
        pivot = self._pivot.model.read(place)
        values = self._turned_end(place)
        if self._frame.tokens is None and len(values) == len(pivot):
            return _filled(values, pivot, restrict_part(part, pivot, turn))
        rows = torch.arange(min(len(pivot), len(values)), device=pivot.device)
        theirs = rows
        if part in _ROWS_ARE_TOKENS and self._frame.tokens is not None:
            rows, theirs = self._frame.tokens.pivot_rows, self._frame.tokens.source_rows
        own, filled = pivot[rows], pivot.clone()
        filled[rows] = _filled(values[theirs], own, restrict_part(part, own, turn))
        return filled

    def _turned_end(self, place: Place) -> Tensor:
        values, turn = self._source.read(place), self._frame.turn
        if turn is None or place.part not in FINAL_NORMS:
            return turn_part(place.part, values, turn, normed=True)
        # the head is what the embedding becomes, which Gemma stores over sqrt(width)
        tied = self._pivot.tied and not self._pivot.model.anatomy.family.scaled_embedding
        head_scale = 1.0 if tied else width_scale(turn)
        return turn_final_norm(place.part, values, turn, head_scale=head_scale)

    def _filled_block(self, layer: int, attention: bool) -> Parts:
        """A block at a layer of the pivot, the source's layers interpolated (paper)."""
        model, turn = self._pivot.model, self._frame.turn
        pivot = read_block(model.read, model.anatomy, ATTENTION if attention else MLP, layer)
        seen = {part: restrict_part(part, values, turn) for part, values in pivot.items()}
        total: Parts = {}
        for match in self._frame.layers[layer]:
            found = express_block(self._source, turn, match, attention=attention)
            restricted = seen
            if attention and match.heads is not None:
                restricted = restrict_to_heads(seen, match.heads, model.anatomy, layer)
            if not attention and match.neurons is not None:
                restricted = restrict_to_neurons(seen, match.neurons)
            for part, own in pivot.items():
                theirs = found.get(part, torch.zeros_like(own))  # a bias that it has not
                filled = _filled(theirs, own, restricted[part])
                total[part] = (
                    total[part].add_(filled, alpha=match.share)
                    if part in total
                    else filled.mul(match.share)
                )
        return total


def _filled(source: Tensor, pivot: Tensor, restricted: Tensor) -> Tensor:
    """Add what of the pivot the source has no counterpart for; exactly nothing where it has."""
    return source if restricted is pivot else source + (pivot - restricted)


def express_block(
    source: FoldedModel, turn: ResidualMap | None, match: LayerMatch, *, attention: bool
) -> Parts:
    """A block of the source in the pivot's residual frame, at the pivot's units.

    Args:
        source: The source, folded.
        turn: Its residual map; None in the pivot's frame.
        match: The layer of the source and where its units stand.
        attention: Attention, else the MLP.

    Returns:
        The parts it has, zeros where a unit of the pivot has no counterpart: put in the place
        of the pivot's they compute what the source computes.
    """
    anatomy = source.anatomy
    parts = read_block(source.read, anatomy, ATTENTION if attention else MLP, match.layer)
    parts = turn_block(parts, turn)
    if attention and match.heads is not None:
        return place_heads(parts, match.heads, anatomy, match.layer)
    if not attention and match.neurons is not None:
        return place_neurons(parts, match.neurons)
    return parts
