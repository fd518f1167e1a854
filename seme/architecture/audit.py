"""The audit of a checkpoint's names: every tensor has its places, and no place is empty (ours)."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from seme.architecture.families import Family
from seme.architecture.parts import Part, Place, Stored

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
