"""Architecture-aware view of a checkpoint: read and write it in canonical parts.

Reading a part undoes fusion, transposition, Gemma's 1 + g and its scaled embedding. Assembling
a stored tensor from its parts is the inverse. Both are exact except for Gemma's two
conventions, which round to float32 once in each direction: copy the stored tensor if no part of
it changes.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from seme.architecture.dimensions import canonical_shapes, measure
from seme.architecture.families import family_of
from seme.architecture.parts import Family, Part, Place, Stored, fuse, split
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


class CanonicalModel:
    """Architecture-aware view of a checkpoint: read and write it in canonical parts."""

    def __init__(self, weights: Weights, *, device: torch.device) -> None:
        """Check names and shapes of all tensors; no weights are read.

        Args:
            weights: The checkpoint.
            device: Device of the parts that are read.

        Raises:
            ValueError: If the architecture is not supported, or a tensor is not in its table,
                is missing, or does not have the shape that the model's sizes give it.
        """
        self.weights = weights
        self.family = family_of(weights.config)
        self.device = device
        self._places = places_in(self.family, weights.names)
        self._names = {
            place: name
            for name, places in self._places.items()
            for place in places
            if place.part is not Part.CONSTANT
        }
        self.tied = _HEAD not in self._names
        """True if the LM head is the stored embedding."""
        self.places = frozenset(self._names) | {_HEAD}
        """Places of the parts that :meth:`read` returns: a tied LM head too, no constants."""
        self.dimensions = measure(weights.config, self.family, self._shape_on_disk)
        self._shapes = canonical_shapes(self.family, self.dimensions)
        for name in weights.names:
            self._check_shape(name)

    def places_of(self, name: str) -> tuple[Place, ...]:
        """Return the places of the parts that a stored tensor holds, in its order."""
        return self._places[name]

    def read(self, place: Place) -> Tensor:
        """Read one canonical part.

        Returns:
            float32 on the device; shapes are those of :class:`~seme.architecture.parts.Part`.
            Gains are the factors applied (Gemma's 1 added), the embedding is scaled as it
            enters the residual stream, a tied LM head is the embedding as stored.

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
            parts: By place, in canonical shape, at least those that the tensor holds.

        Returns:
            float32, in the shape on disk.

        Raises:
            ValueError: If a part is missing or has another shape, or the tensor is a constant.
        """
        pieces = [self._as_stored(name, place, parts) for place in self._places[name]]
        return fuse(pieces, self._layout(name), head_dim=self.dimensions.head_dim)

    def _read_stored(self, place: Place) -> Tensor:
        """Read a part in its canonical shape, with the values on disk."""
        if place not in self._names:
            readable = sorted(
                {other.part.value for other in self.places if other.layer == place.layer}
            )
            raise ValueError(
                f"{place} cannot be read from this {self.family.model_type} model, which has "
                f"{readable} there"
            )
        name = self._names[place]
        pieces = split(
            self.weights.read(name),
            self._layout(name),
            rows=self._rows(name),
            head_dim=self.dimensions.head_dim,
        )
        piece = pieces[self._places[name].index(place)]
        return piece.to(self.device, torch.float32).contiguous()

    def _as_stored(self, name: str, place: Place, parts: Mapping[Place, Tensor]) -> Tensor:
        """Check a part before it is stored, and undo scale and offset of :meth:`read`."""
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
        """Return the factor of the stored values; None without one."""
        scaled = self.family.scaled_embedding and place.part is Part.EMBEDDING
        return math.sqrt(self.dimensions.width) if scaled else None

    def _offset(self, place: Place) -> float | None:
        """Return the offset added to the stored values; None without one."""
        return self.family.gain_offset if place.part in _GAINS else None

    def _layout(self, name: str) -> Stored:
        layout = layout_of(self.family, name)
        assert layout is not None, f"{name} was found in the table when the model was opened"
        return layout

    def _rows(self, name: str) -> list[int]:
        return [self._shape(place)[0] for place in self._places[name]]

    def _shape(self, place: Place) -> tuple[int, ...]:
        """Return the canonical shape of a part: from the sizes if they fix it, or from disk."""
        return self._shapes.get(place.part) or self._shape_on_disk(place)

    def _shape_on_disk(self, place: Place) -> tuple[int, ...]:
        """Return the canonical shape of a part that is stored alone."""
        name = self._names[place]
        shape = self.weights.shape(name)
        if not shape:
            raise ValueError(f"{name} must hold {place}, got a single number")
        return shape[::-1] if self._layout(name).transposed else shape

    def _listed(self, name: str) -> str:
        return ", ".join(map(str, self._places[name]))

    def _check_shape(self, name: str) -> None:
        """Compare a tensor's shape on disk with the shapes of the parts it holds."""
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
    """Map every tensor of a checkpoint to the places of its canonical parts.

    Args:
        family: The architecture, from :func:`seme.architecture.families.family_of`.
        names: Names of all tensors on disk; a tied LM head may be missing.

    Returns:
        Tensor name to places of its parts, in the order in which it holds them. Constants share
        one place per layer.

    Raises:
        ValueError: If a tensor is not in the table, its layer or expert is beyond those of the
            configuration, two tensors hold one part, or a tensor is missing.
    """
    most = max(family.n_layers, family.n_experts)
    if most > len(names):
        raise ValueError(
            f"config.json gives this {family.model_type} model {most} layers or experts, the "
            f"checkpoint has {len(names)} tensors"
        )
    layouts = {name: layout_of(family, name) for name in names}
    unknown = [name for name, stored in layouts.items() if stored is None]
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
        for name, stored in layouts.items()
        if stored is not None
    }
    _refuse(_claimed_twice(places), "two tensors hold one part, {n} are duplicates")
    _refuse(
        sorted(_missing(family, frozenset(p for held in places.values() for p in held))),
        f"a {family.model_type} model of {family.n_layers} layers lacks {{n}} of its "
        "tensors; the checkpoint is incomplete",
    )
    return places


def layout_of(family: Family, name: str) -> Stored | None:
    """Return the entry of the family's table for a tensor; None if it has none."""
    for full in (name, f"{family.optional_prefix}{name}"):
        stored = family.stored.get(_NUMBER.sub("*", full))
        if stored is not None:
            return stored
    return None


def _refuse(names: Sequence[str], complaint: str) -> None:
    """Raise the complaint with the first three names, if there are any."""
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


def _missing(family: Family, present: frozenset[Place]) -> Iterator[str]:
    """Yield the names of tensors that the checkpoint should have but lacks."""
    sparse = {place.layer for place in present if place.part in _EXPERTS}
    somewhere = {place.part for place in present}
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
            if expected and Part.CONSTANT not in stored.parts and not places <= present:
                yield _numbered(pattern, numbers)


def _numbers(family: Family, pattern: str) -> Iterator[tuple[int, ...]]:
    """Yield the layer and expert numbers that replace the stars of a pattern."""
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
