"""Fold norm gains and biases into the following linear layers.

A norm without a gain commutes with a rotation of the residual stream. So before a model is
rotated, each gain g moves into the linear layers W that read the norm's output, W diag(g), and
each bias b of a LayerNorm into their biases, + W b; gains become 1 and biases 0. The function
that the model computes does not change. Norms on a block's output (Gemma, OLMo 2) have no
reader and stay.

The final norm's only reader is the LM head. A tied head is also the embedding, which the gain
must not scale: callers either leave the final norm out of ``norms``, so that it is not folded,
or make the head a tensor of its own (``FoldedWeights(untied=True)``, as SeMe does). The LM head
has no bias, so a folded final norm keeps one: b / g.
"""

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seme.architecture.model import CanonicalModel
from seme.architecture.parts import Part, Place
from seme.checkpoint.protocol import Held, Weights

NORM_IN_FRONT: Mapping[Part, Part] = {
    Part.Q: Part.ATTENTION_NORM,
    Part.K: Part.ATTENTION_NORM,
    Part.V: Part.ATTENTION_NORM,
    Part.GATE: Part.MLP_NORM,
    Part.UP: Part.MLP_NORM,
    Part.HEAD: Part.FINAL_NORM,
}
"""Norm whose output each part reads, if the model has it: OLMo 2's blocks have none."""
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
"""Norms whose output a linear layer reads."""


class FoldedModel:
    """Canonical parts of a model, read with gains and biases of norms folded."""

    def __init__(self, model: CanonicalModel, *, norms: Collection[Part]) -> None:
        """Choose the norms to fold; no weights are read.

        Args:
            model: The model as stored.
            norms: Norms whose gains are folded, a subset of ``FOLDABLE``: all for a model that
                is rotated, all but the final one if a tied LM head must stay tied, none for
                models in one frame.

        Raises:
            ValueError: If a LayerNorm has a bias that no reader has a bias for.
        """
        self.canonical = model
        """The model as stored."""
        self._norms = frozenset(norms)
        if Part.ATTENTION_NORM in self._norms:
            _check_biases(model)

    def alike(self, weights: Weights) -> "FoldedModel":
        """Fold the same norms of another model of this architecture."""
        model = CanonicalModel(weights, device=self.canonical.device)
        return FoldedModel(model, norms=self._norms)

    def read(self, place: Place) -> Tensor:
        """Read a canonical part, folded, in float32; shapes are those of :class:`Part`."""
        part, layer = place.part, place.layer
        values = self.canonical.read(place)
        if part in self._norms:
            return torch.ones_like(values)
        if _NORM_OF_BIAS.get(part) in self._norms:
            return self._folded_norm_bias(place, values)
        if NORM_IN_FRONT.get(part) in self._norms:
            gain = self._read_if_present(NORM_IN_FRONT[part], layer)
            return values if gain is None else values * gain
        if part in _READER_OF_BIAS and self._norms:
            return values + self._moved_bias(_READER_OF_BIAS[part], layer)
        return values

    def changes(self, place: Place) -> bool:
        """Return True if folding changes a part."""
        part = place.part
        in_front = NORM_IN_FRONT.get(_READER_OF_BIAS.get(part, part))
        norm = in_front or _NORM_OF_BIAS.get(part, part)
        if norm not in self._norms:
            return False
        moved = _NORM_BIAS[norm] if part in _READER_OF_BIAS else norm
        return Place(moved, place.layer) in self.canonical.places

    def _moved_bias(self, reader: Part, layer: int | None) -> Tensor | float:
        """Return W b, the part of a reader's bias that comes from the norm; 0 if none."""
        bias = self._read_if_present(_NORM_BIAS[NORM_IN_FRONT[reader]], layer)
        if bias is None:
            return 0.0
        return self.canonical.read(Place(reader, layer)) @ bias

    def _folded_norm_bias(self, place: Place, bias: Tensor) -> Tensor:
        """Return 0; for the final norm b / g, as the LM head has no bias to fold b into."""
        if place.part is not Part.FINAL_NORM_BIAS:
            return torch.zeros_like(bias)
        gain = self.canonical.read(Place(Part.FINAL_NORM))
        if bool(((gain == 0) & (bias != 0)).any()):
            raise ValueError(
                "the final norm has a gain of 0 at an element whose bias is not 0: folding the "
                "gain into the LM head would lose the bias; merge this model with models in "
                "its own frame only"
            )
        return torch.where(bias == 0, 0.0, bias / gain)

    def _read_if_present(self, part: Part, layer: int | None) -> Tensor | None:
        place = Place(part, layer)
        return self.canonical.read(place) if place in self.canonical.places else None


class FoldedWeights:
    """Folded model as a checkpoint; implements :class:`seme.checkpoint.protocol.Weights`."""

    def __init__(self, model: FoldedModel, *, untied: bool) -> None:
        """Choose the tensors; no weights are read.

        Args:
            model: The folded model.
            untied: Give a tied LM head a tensor of its own, the embedding times the final gain.
        """
        self.model = model
        self._stored = model.canonical.weights
        self._head = _name_of_head(model.canonical) if untied else None
        self._embedding = next(
            name
            for name in self._stored.names
            if Place(Part.EMBEDDING) in model.canonical.places_of(name)
        )

    @property
    def path(self) -> Path:
        return self._stored.path

    @property
    def tokenizer_folder(self) -> Path:
        return self._stored.tokenizer_folder

    @functools.cached_property
    def config(self) -> Mapping[str, Any]:
        """Configuration, with ``tie_word_embeddings: false`` if the head was untied."""
        changed = {} if self._head is None else {"tie_word_embeddings": False}
        return {**self._stored.config, **changed}

    @property
    def tied(self) -> bool:
        """True if the LM head is the embedding."""
        return self.model.canonical.tied and self._head is None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        return tuple(sorted({*self._stored.names, *([self._head] if self._head else [])}))

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored.shape(self._origin(name))

    def dtype(self, name: str) -> torch.dtype:
        return self._stored.dtype(self._origin(name))

    def places_of(self, name: str) -> tuple[Place, ...]:
        """Return the places of the canonical parts that a tensor holds, in its order."""
        if name == self._head:
            return (Place(Part.HEAD),)
        return self.model.canonical.places_of(name)

    def read(self, name: str) -> Tensor:
        """Read one tensor of the folded model, float32; constants as stored."""
        places = self.places_of(name)
        if any(place.part is Part.CONSTANT for place in places):
            return self._stored.read(name)
        return self.assemble(name, {place: self.model.read(place) for place in places})

    def opened(self, name: str) -> Held:
        """Read a tensor of the folded model, to be read in pieces."""
        return Held(self.read(name))

    def assemble(self, name: str, parts: Mapping[Place, Tensor]) -> Tensor:
        """Build a stored tensor from canonical parts: the inverse of reading them."""
        if name == self._head:
            return parts[Place(Part.HEAD)]
        return self.model.canonical.assemble(name, parts)

    def _origin(self, name: str) -> str:
        """Return the name of the checkpoint's tensor with the shape and dtype of this one."""
        return self._embedding if name == self._head else name


def _name_of_head(model: CanonicalModel) -> str:
    return next(n for n, s in model.family.stored.items() if s.parts == (Part.HEAD,))


def _check_biases(model: CanonicalModel) -> None:
    """Refuse a LayerNorm with a bias that no reader has a bias for."""
    for bias, reader in _READER_OF_BIAS.items():
        norm_bias = _NORM_BIAS[NORM_IN_FRONT[reader]]
        for layer in range(model.dimensions.n_layers):
            places = model.places
            if {Place(reader, layer), Place(norm_bias, layer)} <= places and Place(
                bias, layer
            ) not in places:
                raise ValueError(
                    f"layer {layer} has {norm_bias} but no {bias} that it could be folded "
                    "into: merge this model with models in its own frame only"
                )
