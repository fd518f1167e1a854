"""A model whose norms only normalise: gains and biases folded into what reads behind (ours).

A rotation of the residual stream commutes with a norm once the norm's gain is gone, so before a
model is turned each gain moves into the readers behind it, W diag(g), and each bias b of a
LayerNorm into their biases, + W b. Nothing the model computes changes.
"""

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seme.architecture.model import Anatomy
from seme.architecture.parts import Part, Place
from seme.checkpoint.protocol import Held

NORM_IN_FRONT: Mapping[Part, Part] = {
    Part.Q: Part.ATTENTION_NORM,
    Part.K: Part.ATTENTION_NORM,
    Part.V: Part.ATTENTION_NORM,
    Part.GATE: Part.MLP_NORM,
    Part.UP: Part.MLP_NORM,
    Part.HEAD: Part.FINAL_NORM,
}
"""The norm each reader stands behind, in models that have it: OLMo 2's blocks have none."""
_NORM_BIAS: Mapping[Part, Part] = {
    Part.ATTENTION_NORM: Part.ATTENTION_NORM_BIAS,
    Part.MLP_NORM: Part.MLP_NORM_BIAS,
    Part.FINAL_NORM: Part.FINAL_NORM_BIAS,
}
_READER_OF_BIAS: Mapping[Part, Part] = {
    Part.Q_BIAS: Part.Q,
    Part.K_BIAS: Part.K,
    Part.V_BIAS: Part.V,
    Part.GATE_BIAS: Part.GATE,
    Part.UP_BIAS: Part.UP,
}
_NORM_OF_BIAS: Mapping[Part, Part] = {bias: norm for norm, bias in _NORM_BIAS.items()}
FOLDABLE = frozenset(_NORM_BIAS)
"""Norms that something reads behind. A norm on a block's output (Gemma, OLMo 2) is none."""


class FoldedModel:
    """A model's canonical parts with gains and biases of norms folded."""

    def __init__(self, anatomy: Anatomy, *, norms: Collection[Part]) -> None:
        """Choose what to fold; nothing is read.

        Args:
            anatomy: The model.
            norms: Norms whose gains are folded, some of ``FOLDABLE``: all of them where a model
                is turned, all but the final one where head and embedding are one matrix that is
                to stay one, none where models share a frame.

        Raises:
            ValueError: If a LayerNorm's bias has no reader's bias to move into.
        """
        self.anatomy = anatomy
        self._norms = frozenset(norms)
        if Part.ATTENTION_NORM in self._norms:
            _check_biases(anatomy)

    def read(self, place: Place) -> Tensor:
        """Read a canonical part, float32; see :class:`seme.architecture.parts.Part` for shapes."""
        part, layer = place.part, place.layer
        values = self.anatomy.read(place)
        if part in self._norms:
            return torch.ones_like(values)
        if _NORM_OF_BIAS.get(part) in self._norms:
            return self._folded_norm_bias(place, values)
        if NORM_IN_FRONT.get(part) in self._norms:
            gain = self._found(NORM_IN_FRONT[part], layer)
            return values if gain is None else values * gain
        if part in _READER_OF_BIAS and self._norms:
            return values + self._moved_bias(_READER_OF_BIAS[part], layer)
        return values

    def changes(self, place: Place) -> bool:
        """Whether a part is not read as it is stored."""
        part = place.part
        in_front = NORM_IN_FRONT.get(_READER_OF_BIAS.get(part, part))
        norm = in_front or _NORM_OF_BIAS.get(part, part)
        if norm not in self._norms:
            return False
        moved = _NORM_BIAS[norm] if part in _READER_OF_BIAS else norm
        return Place(moved, place.layer) in self.anatomy.places

    def _moved_bias(self, reader: Part, layer: int | None) -> Tensor | float:
        """W b, what the bias of the norm in front adds to a reader's own bias."""
        bias = self._found(_NORM_BIAS[NORM_IN_FRONT[reader]], layer)
        if bias is None:
            return 0.0
        return self.anatomy.read(Place(reader, layer)) @ bias

    def _folded_norm_bias(self, place: Place, bias: Tensor) -> Tensor:
        """Zero where readers took it; the head has no bias, so the last norm keeps b / g."""
        if place.part is not Part.FINAL_NORM_BIAS:
            return torch.zeros_like(bias)
        gain = self.anatomy.read(Place(Part.FINAL_NORM))
        if bool(((gain == 0) & (bias != 0)).any()):
            raise ValueError(
                "the final norm has a gain of 0 beside a bias that is not 0: folding the gain "
                "into the head would lose the bias; this model cannot be turned"
            )
        return torch.where(bias == 0, 0.0, bias / gain)

    def _found(self, part: Part, layer: int | None) -> Tensor | None:
        place = Place(part, layer)
        return self.anatomy.read(place) if place in self.anatomy.places else None


class FoldedWeights:
    """The folded model as a checkpoint; with ``untied`` its head is a tensor of its own."""

    def __init__(self, model: FoldedModel, *, untied: bool) -> None:
        self.model = model
        self._stored = model.anatomy.weights
        self._head = _name_of_head(model.anatomy) if untied else None
        self._embedding = next(
            name
            for name in self._stored.names
            if Place(Part.EMBEDDING) in model.anatomy.places_of(name)
        )

    @property
    def path(self) -> Path:
        return self._stored.path

    @functools.cached_property
    def config(self) -> Mapping[str, Any]:
        """The model's configuration, which says so if the head was untied."""
        changed = {} if self._head is None else {"tie_word_embeddings": False}
        return {**self._stored.config, **changed}

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.model.anatomy.tied and self._head is None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        return tuple(sorted({*self._stored.names, *([self._head] if self._head else [])}))

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored.shape(self._origin(name))

    def dtype(self, name: str) -> torch.dtype:
        return self._stored.dtype(self._origin(name))

    def places_of(self, name: str) -> tuple[Place, ...]:
        """The canonical parts a tensor is made of."""
        if name == self._head:
            return (Place(Part.HEAD),)
        return self.model.anatomy.places_of(name)

    def read(self, name: str) -> Tensor:
        """Read one tensor of the folded model, float32; constants as they are."""
        places = self.places_of(name)
        if any(place.part is Part.CONSTANT for place in places):
            return self._stored.read(name)
        return self.assemble(name, {place: self.model.read(place) for place in places})

    def opened(self, name: str) -> Held:
        """Fold a tensor, to be read in pieces."""
        return Held(self.read(name))

    def assemble(self, name: str, parts: Mapping[Place, Tensor]) -> Tensor:
        """Put canonical parts together to a tensor as the checkpoint stores it."""
        if name == self._head:
            return parts[Place(Part.HEAD)]
        return self.model.anatomy.assemble(name, parts)

    def _origin(self, name: str) -> str:
        """The tensor of the checkpoint that has the shape and dtype of this one."""
        return self._embedding if name == self._head else name


def _name_of_head(anatomy: Anatomy) -> str:
    return next(n for n, s in anatomy.family.stored.items() if s.parts == (Part.HEAD,))


def _check_biases(anatomy: Anatomy) -> None:
    """Refuse a LayerNorm whose bias has no reader's bias to move into."""
    for bias, reader in _READER_OF_BIAS.items():
        norm_bias = _NORM_BIAS[NORM_IN_FRONT[reader]]
        for layer in range(anatomy.dimensions.n_layers):
            places = anatomy.places
            if {Place(reader, layer), Place(norm_bias, layer)} <= places and Place(
                bias, layer
            ) not in places:
                raise ValueError(
                    f"layer {layer} has {norm_bias} but no {bias} that it could be folded into: "
                    "this model cannot be turned; merge it with models of its own frame"
                )
