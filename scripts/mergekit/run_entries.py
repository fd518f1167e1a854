"""A translated recipe as the entries of a run: method values, overrides, the pool, the dtype."""

import glob
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from scripts.mergekit.parameters import Setting
from scripts.mergekit.recipe import ModelName, Recipe
from scripts.mergekit.setting import Condition, value_at
from scripts.mergekit.translation import Translation
from seme.architecture.tensor_names import LayerPlace, layer_places, stacked_names
from seme.binding import bind_method, check_method
from seme.overrides import parse_overrides
from seme.tensor_methods import bind_overrides

_CONF = Path(__file__).resolve().parents[2] / "conf" / "method"
_FIRST = re.compile(r"embed|wte|wpe")
"""Names of tensors before the layers."""

Names = Callable[[ModelName], Sequence[str]]
"""Returns the names of a model's tensors; called where settings differ by tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntries:
    """Entries of a run's configuration that a recipe stands for."""

    method: str
    values: Mapping[str, Any]
    """Of the method, all tensors'."""
    overrides: tuple[Mapping[str, Any], ...]
    pivot: Mapping[str, Any]
    sources: tuple[Mapping[str, Any], ...]
    dtype: str | None
    n_layers: int | None
    """Layers of the result, where they are stacked anew."""

    def arguments(self) -> list[str]:
        """Return the run as arguments of ``run.py``."""
        usual = _defaults(self.method)
        lines = {
            f"method.{key}": value for key, value in self.values.items() if value != usual[key]
        }
        pool = {
            "models.pivot": _short(self.pivot),
            "models.sources": [*map(_short, self.sources)],
        }
        entries = {**lines, **pool, "dtype": self.dtype, "overrides": list(self.overrides)}
        return [
            f"method={self.method}",
            "models=custom",
            *(f"{key}={_written(value)}" for key, value in entries.items()
              if value is not None and value != []),
        ]  # fmt: skip


def run_entries(recipe: Recipe, translation: Translation, names: Names) -> RunEntries:
    """Turn a translated recipe into the entries of a run.

    Args:
        recipe: As read.
        translation: Of it.
        names: Returns the names of the pivot's tensors.

    Raises:
        ValueError: If models of a slice have other numbers of layers, or a value is out of
            range; one line for each.
    """
    settings = dict(_settings(translation.values))
    layout = _Layout.of(recipe, translation, names, settings)
    fixed = {key: value for key, value in translation.values.items() if not _varies(value)}
    values = {**_defaults(translation.method), **fixed}
    overrides: list[dict[str, Any]] = []
    for key, setting in settings.items():
        parameter, _, index = key.partition(".")
        base, entries = layout.entries(key, setting)
        if index:
            values[parameter] = [*(values[parameter] if index != "0" else []), base]
        else:
            values[parameter] = base
        _join(overrides, entries)
    method = bind_method({"_target_": f"baselines.{translation.method}.merge", **values})
    check_method(method, len(translation.sources))
    if layout.names:
        overrides += _corrections(method, len(translation.sources), layout, settings, overrides)
    return RunEntries(
        method=translation.method,
        values=values,
        overrides=tuple(overrides),
        pivot=layout.entry(translation.pivot),
        sources=tuple(map(layout.entry, translation.sources)),
        n_layers=layout.n_layers,
        dtype=recipe.dtype,
    )


def _defaults(method: str) -> dict[str, Any]:
    """Return the values of a method's file; those that follow tau are always given."""
    content = yaml.safe_load((_CONF / f"{method}.yaml").read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if not key.startswith("_")}


def _varies(value: object) -> bool:
    return isinstance(value, Setting) or (isinstance(value, list) and len(value) > 0)


def _settings(values: Mapping[str, Any]) -> Iterator[tuple[str, Setting]]:
    """Yield the settings of a translation, those of a list one by one."""
    for key, value in values.items():
        if isinstance(value, Setting):
            yield key, value
        elif isinstance(value, list):
            for i, item in enumerate(value):
                yield f"{key}.{i}", item


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Slices of the result, and its tensors where they are needed."""

    ranges: tuple[tuple[int, int] | None, ...]
    names: tuple[str, ...]
    places: Mapping[str, LayerPlace]
    """Of the tensors in layers."""

    stacks: Mapping[ModelName, list[tuple[int, int]]]
    """Ranges of layers of the models whose layers are stacked anew."""

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        translation: Translation,
        names: Names,
        settings: Mapping[str, Setting],
    ) -> "_Layout":
        in_slices = recipe.slices[0].inputs[0].layers is not None
        if not in_slices and all(setting.constant is not None for setting in settings.values()):
            return cls(ranges=(None,), names=(), places={}, stacks={})
        known = tuple(names(translation.pivot))
        places = layer_places(known)
        if not in_slices:
            return cls(ranges=(None,), names=known, places=places, stacks={})
        ranges = _ranges_of(recipe)
        models = dict.fromkeys((translation.pivot, *translation.sources))
        depths = {model: _depth_of(names(model)) for model in models}
        _check_depths(recipe, depths)
        stacks = {
            model: stack
            for model, depth in depths.items()
            if (stack := _stack_of(recipe, model, depth)) != [(0, depth)]
        }
        if stacks:
            _refuse_numbered_filters(settings)
        if (own := stacks.get(translation.pivot)) is not None:
            chosen = [layer for first, end in own for layer in range(first, end)]
            known = tuple(sorted(stacked_names(known, depths[translation.pivot], chosen)))
            places = layer_places(known)
        return cls(
            ranges=ranges if len(ranges) > 1 else (None,),
            names=known,
            places=places,
            stacks=stacks,
        )

    @property
    def n_layers(self) -> int | None:
        """Layers of the result where they are stacked anew."""
        counts = [place.n_layers for place in self.places.values()]
        return max(counts) if self.stacks else None

    def entry(self, model: ModelName) -> dict[str, Any]:
        """Return a model's entry in the pool."""
        stack = self.stacks.get(model)
        layers = {} if stack is None else {"layers": [list(part) for part in stack]}
        return {**model.entry(), **layers}

    def entries(self, key: str, setting: Setting) -> tuple[Any, list[dict[str, Any]]]:
        """Return the value of all tensors, and overrides for those that have others."""
        if setting.constant is not None:
            return setting.constant, []
        first = setting.by_slice[0][0].value
        entries = []
        for layers, conditions in zip(self.ranges, setting.by_slice, strict=True):
            for condition in conditions:
                if self._applies(condition):
                    part = {} if layers is None else {"layers": list(layers)}
                    value = _override_value(condition)
                    entries.append({"match": condition.pattern, **part, key: value})
        if self.ranges == (None,) and not isinstance(first, tuple):
            entries = entries[1:]
        return first[0] if isinstance(first, tuple) else first, entries

    def _applies(self, condition: Condition) -> bool:
        is_gradient = isinstance(condition.value, tuple) or self.ranges != (None,)
        return not self.names or any(
            condition.holds(name) and (name in self.places or not is_gradient)
            for name in self.names
        )

    def expected(self, setting: Setting, name: str) -> Any:  # noqa: ANN401
        """Return mergekit's value for a tensor."""
        place = self.places.get(name)
        if place is None:
            index = 0 if _FIRST.search(name) else -1
            return value_at(setting.by_slice[index], name, 0.0)
        for layers, conditions in zip(self.ranges, setting.by_slice, strict=True):
            first, end = layers or (0, place.n_layers)
            if first <= place.layer < end:
                depth = 1.0 if end - first == 1 else (place.layer - first) / (end - first - 1)
                return value_at(conditions, name, depth)
        raise AssertionError(f"the slices hold no layer of {name}")


def _depth_of(names: Sequence[str]) -> int:
    """Return the number of a model's layers, by the names of its tensors."""
    return max((place.n_layers for place in layer_places(names).values()), default=0)


def _stack_of(recipe: Recipe, model: ModelName, depth: int) -> list[tuple[int, int]]:
    """Return the ranges of a model's layers that the slices take, joined where they follow.

    In a slice without the model it is given layers of those numbers, or its last, at weight 0.
    """
    stack: list[tuple[int, int]] = []
    for one in recipe.slices:
        taken = [source.layers for source in one.inputs if source.model == model]
        first, end = (taken or [one.inputs[0].layers])[0] or (0, depth)
        if end > depth:
            first, end = depth - (end - first), depth
        if stack and stack[-1][1] == first:
            first = stack.pop()[0]
        stack.append((first, end))
    return stack


def _ranges_of(recipe: Recipe) -> tuple[tuple[int, int], ...]:
    """Return the layers of the result that each slice makes.

    Raises:
        ValueError: If models of a slice have other numbers of layers; names each.
    """
    faults, ranges, start = [], [], 0
    for one in recipe.slices:
        lengths = [
            end - first for first, end in (source.layers or (0, 0) for source in one.inputs)
        ]
        faults += [
            f"{source.path}.layer_range: must have as many layers as the slice's first, "
            f"{lengths[0]}, got {length}"
            for source, length in zip(one.inputs, lengths, strict=True)
            if length != lengths[0]
        ]
        ranges.append((start, start + lengths[0]))
        start += lengths[0]
    if faults:
        raise ValueError("\n".join(faults))
    return tuple(ranges)


def _check_depths(recipe: Recipe, depths: Mapping[ModelName, int]) -> None:
    """Demand that every model has the layers that the slices take.

    Raises:
        ValueError: If one has not, or has fewer layers than a slice without it; names each.
    """
    faults = []
    for one in recipe.slices:
        for source in one.inputs:
            depth = depths.get(source.model, 0)
            if source.layers is not None and source.layers[1] > depth:
                faults.append(
                    f"{source.path}.layer_range: must be within the {depth} layers of "
                    f"{source.model.label}, got {list(source.layers)}"
                )
        first, end = one.inputs[0].layers or (0, 0)
        shallow = [model.label for model, depth in depths.items() if depth < end - first]
        if shallow and not faults:
            faults.append(
                f"{one.path}: {end - first} layers at once cannot be expressed with "
                f"{', '.join(shallow)}, which has fewer: divide the slice"
            )
    if faults:
        raise ValueError("\n".join(faults))


def _refuse_numbered_filters(settings: Mapping[str, Setting]) -> None:
    """Refuse filters that may name layers of a model whose layers are moved."""
    for key, setting in settings.items():
        for condition in (c for conditions in setting.by_slice for c in conditions):
            if condition.filter is not None and re.search(r"\d", condition.filter):
                raise ValueError(
                    f"parameters, {key}: the filter {condition.filter!r} cannot be expressed: it "
                    "has a number, and layers are stacked anew"
                )


def _override_value(condition: Condition) -> Any:  # noqa: ANN401
    if isinstance(condition.value, tuple):
        return {"gradient": list(condition.value)}
    return condition.value


def _join(overrides: list[dict[str, Any]], entries: Sequence[dict[str, Any]]) -> None:
    """Add the entries of one parameter, to those of others for the same tensors if possible."""
    least = 0
    for entry in entries:
        where = {key: entry.get(key) for key in ("match", "layers")}
        for i in range(least, len(overrides)):
            if {key: overrides[i].get(key) for key in where} == where:
                overrides[i] |= entry
                least = i + 1
                break
        else:
            overrides.append(dict(entry))
            least = len(overrides)


def _own(values: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401
    parameter, _, index = key.partition(".")
    return values[parameter][int(index)] if index else values[parameter]


def _corrections(
    method: partial[Tensor],
    n_sources: int,
    layout: _Layout,
    settings: Mapping[str, Setting],
    overrides: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Give tensors outside of layers the value that mergekit gives them.

    There mergekit takes the first point of a gradient, and the settings of the first slice before
    the layers, of the last one after them.
    """
    bound = bind_overrides(method, parse_overrides(list(overrides)), layout.names, n_sources)
    corrections = []
    for name in layout.names:
        found = bound.at(name).keywords
        wrong = {
            key: wanted
            for key, setting in settings.items()
            if (wanted := layout.expected(setting, name)) != _own(found, key)
        }
        if name not in layout.places:
            corrections += [{"match": glob.escape(name), **wrong}] if wrong else []
        elif any(abs(wanted - _own(found, key)) > 1e-9 for key, wanted in wrong.items()):
            raise AssertionError(f"overrides give {name} {found}, expected {wrong}")
    return corrections


def _short(entry: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return a model's entry as its location where it has nothing else."""
    return entry["location"] if entry.keys() == {"location"} else entry


def _written(value: Any) -> str:  # noqa: ANN401 (plain values)
    """Write a value in Hydra's grammar of overrides."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_written, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return json.dumps(value)
