"""A model seen through its canonical parts, whatever its architecture stores (ours).

Reading a part undoes fusion, transposition, Gemma's 1 + g and its scaled embedding; assembling a
stored tensor from its parts is the inverse. Both are exact but for Gemma's two conventions, which
round to float32 once each way: copy the stored tensor where no part of it is to change.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from seme.architecture.dimensions import canonical_shapes, measure
from seme.architecture.families import Family, family_of
from seme.architecture.parts import Part, Place, Stored, fuse, split
from seme.checkpoint.protocol import Weights

_EMBEDDING, _HEAD = Place(Part.EMBEDDING), Place(Part.HEAD)
_GAINS = frozenset(
    {
        Part.FINAL_NORM,
        Part.ATTENTION_NORM,
        Part.ATTENTION_POST_NORM,
        Part.Q_NORM,
        Part.K_NORM,
        Part.MLP_NORM,
        Part.MLP_POST_NORM,
    }
)


class Anatomy:
    """A checkpoint that has passed the audit, read and written part by part."""

    def __init__(self, weights: Weights, *, device: torch.device) -> None:
        """Audit names and shapes; no weights are read.

        Raises:
            ValueError: If the architecture is not supported, or a tensor has no role, is
                missing, or has not the shape that the model's sizes give it.
        """
        self.weights = weights
        self.family = family_of(weights.config)
        self._device = device
        self._places = places_in(self.family, weights.names)
        self._names = {
            place: name
            for name, places in self._places.items()
            for place in places
            if place.part is not Part.CONSTANT
        }
        self.tied = _HEAD not in self._names
        """Whether the head is the stored embedding."""
        self.places = frozenset(self._names) | {_HEAD}
        """All that can be read: the head also when tied, never constants."""
        self.dimensions = measure(weights.config, self.family, self._shape_on_disk)
        self._shapes = canonical_shapes(self.family, self.dimensions)
        for name in weights.names:
            self._check_shape(name)

    def places_of(self, name: str) -> tuple[Place, ...]:
        """Return the places of the parts a stored tensor holds, in its order."""
        return self._places[name]

    def read(self, place: Place) -> Tensor:
        """Read one canonical part.

        Returns:
            float32 on the device, in the shape that :class:`seme.architecture.parts.Part` gives. Gains come
            as they multiply, the embedding as it enters the stream, a tied head as it is stored.

        Raises:
            ValueError: If the model has no such part, or it is a constant.
        """
        if place == _HEAD and self.tied:
            return self._read_stored(_EMBEDDING)
        part = self._read_stored(place)
        if scale := self._scale(place):
            part = part * scale
        if offset := self._offset(place):
            part = part + offset
        return part

    def assemble(self, name: str, parts: Mapping[Place, Tensor]) -> Tensor:
        """Build a stored tensor from its canonical parts: the inverse of :meth:`read`.

        Args:
            name: Name of the stored tensor.
            parts: What stands at each of its places, in canonical shape, maybe among others.

        Returns:
            float32, in the shape on disk.

        Raises:
            ValueError: If a part is missing or has another shape, or the tensor is a constant.
        """
        pieces = [self._as_stored(name, place, parts) for place in self._places[name]]
        return fuse(pieces, self._layout(name), head_dim=self.dimensions.head_dim)

    def _read_stored(self, place: Place) -> Tensor:
        """Read a part in its canonical shape with the numbers on disk."""
        if place not in self._names:
            there = sorted(
                {other.part.value for other in self.places if other.layer == place.layer}
            )
            raise ValueError(
                f"{place} cannot be read from this {self.family.model_type} model: what it has "
                f"there is {there}"
            )
        name = self._names[place]
        pieces = split(
            self.weights.read(name),
            self._layout(name),
            rows=self._rows(name),
            head_dim=self.dimensions.head_dim,
        )
        piece = pieces[self._places[name].index(place)]
        return piece.to(self._device, torch.float32).contiguous()

    def _as_stored(self, name: str, place: Place, parts: Mapping[Place, Tensor]) -> Tensor:
        """Check a part that is to be stored and undo what :meth:`read` did to its numbers."""
        if place.part is Part.CONSTANT:
            raise ValueError(f"{name} is a constant: copy it, it has no canonical parts")
        if place not in parts:
            raise ValueError(
                f"{name} is assembled from {self._listed(name)}; {place} is missing"
            )
        expected, part = self._shape(place), parts[place].float()
        if part.shape != expected:
            raise ValueError(
                f"{place} in {name} must have the shape {expected}, got {tuple(part.shape)}"
            )
        if offset := self._offset(place):
            part = part - offset
        if scale := self._scale(place):
            part = part / scale
        return part

    def _scale(self, place: Place) -> float | None:
        """What the stored numbers are multiplied by, if anything."""
        scaled = self.family.scaled_embedding and place.part is Part.EMBEDDING
        return math.sqrt(self.dimensions.width) if scaled else None

    def _offset(self, place: Place) -> float | None:
        """What is added to the stored numbers, if anything."""
        return self.family.gain_offset if place.part in _GAINS else None

    def _layout(self, name: str) -> Stored:
        layout = layout_of(self.family, name)
        assert layout is not None, f"{name} has passed the audit"
        return layout

    def _rows(self, name: str) -> list[int]:
        return [self._shape(place)[0] for place in self._places[name]]

    def _shape(self, place: Place) -> tuple[int, ...]:
        """Return the canonical shape of a part: that of all its kind, else its own."""
        return self._shapes.get(place.part) or self._shape_on_disk(place)

    def _shape_on_disk(self, place: Place) -> tuple[int, ...]:
        """Return the canonical shape of a part that is stored alone."""
        name = self._names[place]
        shape = self.weights.shape(name)
        return shape[::-1] if self._layout(name).transposed else shape

    def _listed(self, name: str) -> str:
        return ", ".join(map(str, self._places[name]))

    def _check_shape(self, name: str) -> None:
        """Compare the shape on disk with that of the parts a tensor should hold."""
        if any(place.part is Part.CONSTANT for place in self._places[name]):
            return
        shapes = [self._shape(place) for place in self._places[name]]
        together = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        expected = together[::-1] if self._layout(name).transposed else together
        if self.weights.shape(name) != expected:
            raise ValueError(
                f"{name} must have the shape {expected}, as it holds {self._listed(name)} of a "
                f"{self.family.model_type} model of this size, got {self.weights.shape(name)}"
            )


_NUMBER = re.compile(r"(?<=\.)(0|[1-9][0-9]*)(?=\.)")
_EXPERTS = frozenset({Part.ROUTER, Part.EXPERT_GATE, Part.EXPERT_UP, Part.EXPERT_DOWN})


def places_in(family: Family, names: Sequence[str]) -> dict[str, tuple[Place, ...]]:
    """Find the canonical places of every tensor of a checkpoint.

    Args:
        family: The architecture, from :func:`seme.architecture.families.family_of`.
        names: Names of all tensors on disk; a head may be missing where it is tied.

    Returns:
        By name, the places of the parts a tensor holds, in the order it holds them. Constants
        share one place per layer.

    Raises:
        ValueError: If a tensor has no role or a layer or expert of it is beyond those of the
            configuration, if two tensors claim one place, or if one is missing.
    """
    found = {name: layout_of(family, name) for name in names}
    unknown = [name for name, stored in found.items() if stored is None]
    _refuse(
        unknown, f"every tensor of a {family.model_type} model needs a role, {{n}} have none"
    )
    numbers = {name: tuple(map(int, _NUMBER.findall(name))) for name in names}
    limits = (family.n_layers, family.n_experts)
    beyond = [
        name
        for name in names
        if any(number >= limit for number, limit in zip(numbers[name], limits, strict=False))
    ]
    _refuse(
        beyond,
        f"config.json gives this {family.model_type} model {family.n_layers} layers and "
        f"{family.n_experts} experts in each; of its tensors {{n}} are beyond",
    )
    places = {
        name: tuple(Place(part, *numbers[name]) for part in stored.parts)
        for name, stored in found.items()
        if stored is not None
    }
    _refuse(_claimed_twice(places), "two tensors claim one place, {n} are one too many")
    _refuse(
        sorted(_missing(family, frozenset(p for held in places.values() for p in held))),
        f"a {family.model_type} model of {family.n_layers} layers lacks {{n}} of its "
        "tensors; the checkpoint is incomplete",
    )
    return places


def layout_of(family: Family, name: str) -> Stored | None:
    """Find the table's line for a tensor; None where there is none."""
    for full in (name, f"{family.optional_prefix}{name}"):
        stored = family.stored.get(_NUMBER.sub("*", full))
        if stored is not None:
            return stored
    return None


def _refuse(names: Sequence[str], complaint: str) -> None:
    """Raise the complaint, with the first few names, if there are any."""
    if names:
        more = ", ..." if len(names) > 3 else ""
        raise ValueError(f"{complaint.format(n=len(names))}: {list(names[:3])}{more}")


def _claimed_twice(places: Mapping[str, Iterable[Place]]) -> list[str]:
    claims = defaultdict(list)
    for name, held in places.items():
        for place in held:
            if place.part is not Part.CONSTANT:
                claims[place].append(name)
    return [name for names in claims.values() for name in names[1:]]


def _missing(family: Family, found: frozenset[Place]) -> Iterator[str]:
    """Name every tensor whose places should be there but are not."""
    sparse = {place.layer for place in found if place.part in _EXPERTS}
    somewhere = {place.part for place in found}
    for pattern, stored in family.stored.items():
        for numbers in _numbers(family, pattern):
            places = {Place(part, *numbers) for part in stored.parts}
            may_be_absent = Part.HEAD in stored.parts and family.tied
            expected = {
                "always": not may_be_absent,
                "all or none": not somewhere.isdisjoint(stored.parts),
                "dense": bool(numbers) and numbers[0] not in sparse,
                "sparse": bool(numbers) and numbers[0] in sparse,
            }[stored.present]
            if expected and Part.CONSTANT not in stored.parts and not places <= found:
                yield _numbered(pattern, numbers)


def _numbers(family: Family, pattern: str) -> Iterator[tuple[int, ...]]:
    """List the numbers that can stand for the stars of a pattern."""
    layers, experts = range(family.n_layers), range(family.n_experts)
    match pattern.count("*"):
        case 0:
            yield ()
        case 1:
            yield from ((layer,) for layer in layers)
        case _:
            yield from ((layer, expert) for layer in layers for expert in experts)


def _numbered(pattern: str, numbers: Sequence[int]) -> str:
    for number in numbers:
        pattern = pattern.replace("*", str(number), 1)
    return pattern
