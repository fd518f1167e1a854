"""A method bound tensor by tensor: the hyper-parameters that overrides give each of them."""

import difflib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from seme.architecture.tensor_names import LayerPlace, layer_places
from seme.binding import check_method, hyper_parameter_names, named_by, prepare
from seme.interface import Prepared, Traits, traits_of
from seme.overrides import OWN_KEYS, Override, has_gradient, is_gradient, parameter_of
from seme.streaming import Models, OpenTensor
from seme.whole_tensor import whole_names


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMethods:
    """A method, and what it is bound to for the tensors that overrides name."""

    method: partial[Tensor]
    """As configured, for all other tensors."""
    by_name: Mapping[str, partial[Tensor]]
    """Tensors of one set of values share one object."""

    def at(self, name: str) -> partial[Tensor]:
        """Return the method as bound for a tensor."""
        return self.by_name.get(name, self.method)

    def whole_names(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """Select the tensors that the method is called with whole, in their order."""
        if not self.by_name:
            return whole_names(self.method, shapes)
        return tuple(
            name for name, shape in shapes.items() if whole_names(self.at(name), {name: shape})
        )

    def prepare(self, models: Models) -> Prepared | None:
        """Run the method's preparation, once for each set of the values that it names.

        Each passes over the tensors that have these values only, so that a threshold over the
        whole model is then one over these tensors.
        """
        preparation = traits_of(self.method).preparation
        if preparation is None or not self.by_name:
            return prepare(self.method, models)
        groups = self._grouped(models.merged_names, preparation)
        if len(groups) == 1:
            ((method, _),) = groups
            return prepare(method, models)
        parts = [
            _Part(
                values=named_by(preparation, method),
                names=names,
                prepared=_prepared(method, replace(models, merged_names=names)),
            )
            for method, names in groups
        ]
        return PreparedByTensor(parts)

    def described(self) -> list[str]:
        """Say which values overrides give to how many tensors, one line for each set."""
        counts: dict[str, int] = defaultdict(int)
        for method in self.by_name.values():
            changed = {
                key: value
                for key, value in method.keywords.items()
                if value != self.method.keywords[key]
            }
            text = " ".join(f"{key}={json.dumps(value)}" for key, value in changed.items())
            counts[text or "as all others"] += 1
        return [f"{n} tensors: {text}" for text, n in counts.items()]

    def _grouped(
        self, names: Sequence[str], preparation: Callable[..., Any]
    ) -> list[tuple[partial[Tensor], tuple[str, ...]]]:
        """Group tensors by the values of the parameters that a preparation names."""
        groups: dict[str, tuple[partial[Tensor], list[str]]] = {}
        for name in names:
            method = self.at(name)
            key = json.dumps(named_by(preparation, method), sort_keys=True, default=str)
            groups.setdefault(key, (method, []))[1].append(name)
        return [(method, tuple(members)) for method, members in groups.values()]


def _prepared(method: partial[Tensor], models: Models) -> Prepared:
    prepared = prepare(method, models)
    assert prepared is not None, "the method has a preparation"
    return prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Result of one preparation, and the tensors it is for."""

    values: Mapping[str, Any]
    names: tuple[str, ...]
    prepared: Prepared


class PreparedByTensor:
    """Results of several preparations; implements :class:`seme.interface.Prepared`."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts
        self._by_name = {name: part.prepared for part in parts for name in part.names}

    def at(self, tensor: OpenTensor) -> Any:  # noqa: ANN401 (each method reads its own back)
        return self._by_name[tensor.name].at(tensor)

    def diagnostics(self) -> Mapping[str, Any]:
        """Return the diagnostics of each preparation with its values and number of tensors."""
        return {
            "parts": [
                {
                    "values": dict(part.values),
                    "n_tensors": len(part.names),
                    **part.prepared.diagnostics(),
                }
                for part in self._parts
            ]
        }


def check_parameters(method: partial[Tensor], overrides: Sequence[Override]) -> None:
    """Check the names of what overrides give values to, and their kinds; no model is needed.

    Args:
        method: The merge function, its hyper-parameters bound.
        overrides: As parsed.

    Raises:
        ValueError: If a parameter is unknown, one item of what is no list is given, a gradient
            is of a parameter that is no number, or the preparation rewrites whole models by
            the parameter; names the entry.
    """
    known = hyper_parameter_names(method)
    fixed = _fixed_names(method, traits_of(method))
    for override in overrides:
        for key, value in override.values.items():
            name, index = parameter_of(key)
            if name not in known:
                close = difflib.get_close_matches(name, [*sorted(known), *OWN_KEYS], n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(
                    f"{override.label}: the method has no parameter {key}, only "
                    f"{', '.join(sorted(known)) or 'none'}{hint}"
                )
            if name in fixed:
                raise ValueError(
                    f"{override.label}: {name} must be one for all tensors, as the method's "
                    "preparation rewrites whole models by it"
                )
            _check_kind(override, key, value, method.keywords[name], index)


def _fixed_names(method: partial[Tensor], traits: Traits) -> set[str]:
    """Parameters by which a preparation rewrites the models as a whole."""
    if traits.preparation is None or not traits.any_shape:
        return set()
    return set(named_by(traits.preparation, method))


def _check_kind(
    override: Override, key: str, value: object, current: object, index: int | None
) -> None:
    if index is not None:
        if not isinstance(current, list | tuple) or index >= len(current):
            raise ValueError(
                f"{override.label}: {key} needs a list with an item {index} as the method's "
                f"own value, got {current!r}"
            )
        current = current[index]
    is_number = isinstance(current, int | float) and not isinstance(current, bool)
    if is_gradient(value) and not is_number:
        raise ValueError(
            f"{override.label}: a gradient is of a parameter that is a number, and {key} is "
            f"{current!r} (of a list, give one item, such as weights.0, or a list of gradients)"
        )


def bind_overrides(
    method: partial[Tensor],
    overrides: Sequence[Override],
    names: Sequence[str],
    n_sources: int,
) -> TensorMethods:
    """Resolve overrides for the tensors to be merged, and check every set of values.

    Later entries override earlier ones, parameter by parameter. A gradient spreads its points
    evenly from the first to the last layer of a stack, or of ``layers``, and interpolates; one
    layer has the last point. Tensors outside of layers keep the value that they had.

    Args:
        method: The merge function, its hyper-parameters bound.
        overrides: As parsed.
        names: Tensors to be merged.
        n_sources: Number of sources.

    Raises:
        ValueError: As :func:`check_parameters`; if an entry matches no tensor, ``layers`` has
            more than the model, or a value is out of range; says for which tensor.
    """
    if not overrides:
        return TensorMethods(method=method, by_name={})
    check_parameters(method, overrides)
    places = layer_places(names)
    for override in overrides:
        _check_matches(override, names, places)
    shared: dict[str, partial[Tensor]] = {}
    by_name = {}
    for name in names:
        matching = [o for o in overrides if _matches(o, name, places)]
        if not matching:
            continue
        values = dict(method.keywords)
        for override in matching:
            _apply(values, override, places.get(name))
        key = json.dumps(values, sort_keys=True, default=str)
        if key not in shared:
            shared[key] = partial(method.func, **values)
            try:
                check_method(shared[key], n_sources)
            except ValueError as error:
                raise ValueError(f"overrides give {name} another value: {error}") from error
        by_name[name] = shared[key]
    return TensorMethods(method=method, by_name=by_name)


def _matches(override: Override, name: str, places: Mapping[str, LayerPlace]) -> bool:
    if not fnmatchcase(name, override.match):
        return False
    if override.layers is None:
        return True
    first, end = override.layers
    return name in places and first <= places[name].layer < end


def _check_matches(
    override: Override, names: Sequence[str], places: Mapping[str, LayerPlace]
) -> None:
    most = max((place.n_layers for place in places.values()), default=0)
    if override.layers is not None and override.layers[1] > most:
        raise ValueError(
            f"{override.label}: layers must be within the model's {most}, at most [0, {most}]"
        )
    matching = [name for name in names if _matches(override, name, places)]
    if not matching:
        raise ValueError(
            f"{override.label}: match must name a tensor that is merged, and none is; they are "
            f"named like {', '.join(names[:3])}"
        )
    has_gradients = any(has_gradient(value) for value in override.values.values())
    if has_gradients and not any(name in places for name in matching):
        raise ValueError(
            f"{override.label}: a gradient is over layers, and no tensor that matches is in one"
        )


def _apply(values: dict[str, Any], override: Override, place: LayerPlace | None) -> None:
    """Replace the values that an override gives to a tensor."""
    for key, value in override.values.items():
        if has_gradient(value):
            if place is None:
                continue
            value = _at_depth(value, _depth(place, override.layers))
        name, index = parameter_of(key)
        if index is None:
            values[name] = value
        else:
            items = list(values[name])
            items[index] = value
            values[name] = items


def _depth(place: LayerPlace, layers: tuple[int, int] | None) -> float:
    """Return where a layer is between the first, 0, and the last, 1; 1 for the only one."""
    first, end = layers or (0, place.n_layers)
    return 1.0 if end - first == 1 else (place.layer - first) / (end - first - 1)


def _at_depth(value: Any, depth: float) -> Any:  # noqa: ANN401 (any value of a parameter)
    if isinstance(value, list | tuple):
        return [_at_depth(item, depth) for item in value]
    if not is_gradient(value):
        return value
    points = value["gradient"]
    return float(np.interp(depth * (len(points) - 1), range(len(points)), points))
