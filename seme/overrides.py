"""Overrides of hyper-parameters by name and layer, as configured; gradients over the layers.

``overrides: [{match: "*.mlp.*", lam: 0.3}]`` gives the tensors that match another ``lam``;
``{layers: [0, 8], lam: 0.1}`` those of the first eight layers; ``lam: {gradient: [0, 0.5, 1]}``
values spread evenly over the layers, interpolated between. Later entries override earlier ones.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from seme.checks import check_finite, check_whole

_ITEM = re.compile(r"(\w+)\.(\d+)")
"""One item of a list, such as ``weights.0``."""
_GRADIENT = {"gradient"}
OWN_KEYS = ("match", "layers")
"""Entries of an override that are no hyper-parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Values of hyper-parameters for the tensors that a pattern and a range of layers name."""

    match: str
    """Glob pattern on the tensor's name in the pivot."""
    layers: tuple[int, int] | None
    """First layer, and the one after the last; None for all tensors, those outside of layers
    too."""
    values: Mapping[str, Any]
    """By parameter, or by one item of a list, as in ``weights.0``."""

    def described(self) -> dict[str, Any]:
        """Return the entry as configured, JSON-ready."""
        layers = {} if self.layers is None else {"layers": list(self.layers)}
        return {"match": self.match, **layers, **self.values}

    @property
    def label(self) -> str:
        """Name of the entry in errors: the entry itself."""
        return f"overrides, {json.dumps(self.described())}"


def text_of(overrides: Sequence[Override]) -> str:
    """Return overrides as JSON without spaces, for the record."""
    described = [override.described() for override in overrides]
    return json.dumps(described, separators=(",", ":"))


def parse_overrides(value: object) -> tuple[Override, ...]:
    """Check the shape of the configuration's ``overrides``; methods and models are not known.

    Args:
        value: A list of mappings, each with ``match`` (a glob pattern; all tensors without),
            ``layers`` (``[first, last + 1]``; all without) or both, and parameters.

    Raises:
        ValueError: If it is anything else, an entry gives no value, or a gradient is no list of
            finite numbers.
    """
    if not isinstance(value, list | tuple):
        raise ValueError(
            'overrides must be a list such as [{match: "*.mlp.*", lam: 0.3}], '
            f"got {value!r:.100}"
        )
    return tuple(_parse(entry, f"overrides.{i}") for i, entry in enumerate(value))


def _parse(entry: object, where: str) -> Override:
    if not isinstance(entry, Mapping) or not all(isinstance(key, str) for key in entry):
        raise ValueError(
            f'{where} must be a mapping such as {{match: "*.mlp.*", lam: 0.3}}, '
            f"got {entry!r:.100}"
        )
    match, layers = entry.get("match", "*"), entry.get("layers")
    if not isinstance(match, str) or not match:
        raise ValueError(f"{where}.match must be a glob pattern, got {match!r:.100}")
    values = {key: value for key, value in entry.items() if key not in OWN_KEYS}
    if not values:
        raise ValueError(f"{where} must give a parameter a value, got {dict(entry)!r:.100}")
    for key, value in values.items():
        _check_value(f"{where}.{key}", value)
    return Override(match=match, layers=_range(layers, f"{where}.layers"), values=values)


def _range(layers: object, where: str) -> tuple[int, int] | None:
    if layers is None:
        return None
    if not isinstance(layers, list | tuple) or len(layers) != 2:
        raise ValueError(
            f"{where} must be [first, last + 1] such as [0, 8], got {layers!r:.100}"
        )
    first, end = layers
    check_whole(f"{where}.0", first, least=0)
    check_whole(f"{where}.1", end, least=first + 1)
    return first, end


def _check_value(where: str, value: object) -> None:
    """Demand what a method's file may hold, or gradients."""
    for item in value if isinstance(value, list | tuple) else (value,):
        if is_gradient(item):
            continue
        if item is not None and not isinstance(item, bool | int | float | str):
            raise ValueError(
                f"{where} must be a number, a text, a list of them or "
                f"{{gradient: [0, 0.5, 1]}}, got {value!r:.100}"
            )
    for points in _gradients(value):
        _check_gradient(where, points)


def _check_gradient(where: str, points: object) -> None:
    if not isinstance(points, list | tuple) or not points:
        raise ValueError(
            f"{where}.gradient must be a list of numbers such as [0, 0.5, 1], "
            f"got {points!r:.100}"
        )
    for i, point in enumerate(points):
        check_finite(f"{where}.gradient.{i}", point)


def is_gradient(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Return True for ``{gradient: [...]}``."""
    return isinstance(value, Mapping) and value.keys() == _GRADIENT


def _gradients(value: object) -> Iterator[object]:
    """Yield the points of a gradient, or of each in a list."""
    for item in value if isinstance(value, list | tuple) else (value,):
        if is_gradient(item):
            yield item["gradient"]


def has_gradient(value: object) -> bool:
    """Return True for a gradient, and for a list with one."""
    return any(True for _ in _gradients(value))


def parameter_of(key: str) -> tuple[str, int | None]:
    """Split the key of a value: the parameter, and the index of one item of its list."""
    item = _ITEM.fullmatch(key)
    return (key, None) if item is None else (item[1], int(item[2]))
