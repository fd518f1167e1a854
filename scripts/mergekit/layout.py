"""Slices of a recipe laid out as layers of the result; overrides for what differs by tensor."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.mergekit.parameters import Setting
from scripts.mergekit.recipe import ModelName, Recipe
from scripts.mergekit.setting import Condition, value_at
from scripts.mergekit.work import Translation
from seme.architecture.tensor_names import LayerPlace, layer_places, stacked_names

_FIRST = re.compile(r"embed|wte|wpe")
"""Names of tensors before the layers."""

Names = Callable[[ModelName], Sequence[str]]
"""Returns the names of a model's tensors; called where settings differ by tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Slices of the result, and its tensors where they are needed."""

    ranges: tuple[tuple[int, int] | None, ...]
    names: tuple[str, ...]
    places: Mapping[str, LayerPlace]
    """Places of the tensors in layers."""

    stacks: Mapping[ModelName, list[tuple[int, int]]]
    """Ranges of layers of the models whose layers are stacked anew."""

    uneven: tuple[str, ...] = ()
    """Line for each of them: the layers that the slices leave out, and those they repeat."""

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        translation: Translation,
        names: Names,
        settings: Mapping[str, Setting],
    ) -> "Layout":
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
            uneven=tuple(
                f"of {model.label}, {faults}"
                for model in stacks
                if (faults := _unevenness(recipe, model, depths[model]))
            ),
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


def _unevenness(recipe: Recipe, model: ModelName, depth: int) -> str:
    """Say which layers of a model the slices leave out or repeat; empty if none."""
    taken = Counter(
        layer
        for one in recipe.slices
        for source in one.inputs
        if source.model == model
        for layer in range(*(source.layers or (0, depth)))
    )
    kinds = {
        "left out": [layer for layer in range(depth) if not taken[layer]],
        "repeated": [layer for layer in range(depth) if taken[layer] > 1],
    }
    return " and ".join(
        f"{'layer' if len(layers) == 1 else 'layers'} {', '.join(map(str, layers))} "
        f"{'is' if len(layers) == 1 else 'are'} {kind}"
        for kind, layers in kinds.items()
        if layers
    )


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
