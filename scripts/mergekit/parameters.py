"""Parameters of a mergekit recipe, by method: their levels, defaults and what is ignored."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scripts.mergekit.recipe import ModelName, Recipe
from scripts.mergekit.setting import (
    Condition,
    Scalar,
    as_number,
    in_order,
    numbers_of,
)

KNOWN = {
    "density", "eps", "epsilon", "filter_wise", "gamma", "int8_mask", "lambda", "max_iter",
    "normalize", "normalize_weights", "rescale", "scale", "select_topk", "t", "tol", "weight",
}  # fmt: skip
"""Parameters of mergekit's methods that this reads."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter's conditions in every slice; the last that holds counts."""

    by_slice: tuple[tuple[Condition, ...], ...]

    @property
    def constant(self) -> Scalar | None:
        """The value, if it is one for all tensors."""
        values = {c.value for conditions in self.by_slice for c in conditions}
        (value, *others) = values
        return None if others or isinstance(value, tuple) else value

    def times(self, factor: float) -> "Setting":
        """Return the setting with all values scaled."""
        return Setting(
            tuple(
                tuple(replace(c, value=_scaled(c.value, factor)) for c in conditions)
                for conditions in self.by_slice
            )
        )


def always(value: Scalar, n_slices: int = 1) -> Setting:
    """Return the setting of one value for all tensors."""
    return Setting(((Condition(None, value),),) * n_slices)


def _scaled(value: Any, factor: float) -> Any:  # noqa: ANN401 (a number, or several)
    if isinstance(value, tuple):
        return tuple(v * factor for v in value)
    return value if factor == 1 else value * factor


class RecipeParameters:
    """Looks up the parameters of a recipe; collects mistakes, and what mergekit ignores."""

    def __init__(self, recipe: Recipe) -> None:
        self.problems: list[str] = []
        self._recipe = recipe
        self._used: set[tuple[str, bool]] = set()

    @property
    def n_slices(self) -> int:
        return len(self._recipe.slices)

    def shared(self, name: str, default: float | None = None) -> Setting:
        """Return a parameter that all models share, as numbers; no default: it is required."""
        self._used.add((name, False))
        return self._setting(name, None, default)

    def of(self, model: ModelName, name: str, default: float | None = None) -> Setting:
        """Return a parameter of one model, as numbers."""
        self._used.add((name, True))
        return self._setting(name, model, default)

    def each(
        self, models: Sequence[ModelName], name: str, default: float | None = None
    ) -> list[Setting]:
        """Return a parameter of every model."""
        return [self.of(model, name, default) for model in models]

    def switch(self, name: str, default: bool) -> bool:
        """Return a parameter that is on or off, for all tensors alike."""
        self._used.add((name, False))
        levels = [[*one.parameters.get(name, ())] for one in self._recipe.slices]
        values = {
            c.value for level in (*levels, self._recipe.parameters.get(name, ())) for c in level
        }
        if not values:
            return default
        value = values.pop()
        if values or not isinstance(value, bool):
            self.problems.append(
                f"parameters.{name}: must be true or false for all tensors alike here"
            )
            return default
        return value

    def unused(self) -> list[str]:
        """Report parameters of no method, and return notes on those that mergekit ignores."""
        notes = []
        recipe = self._recipe
        places = [("parameters", recipe.parameters, False)]
        places += [(f"{one.path}.parameters", one.parameters, False) for one in recipe.slices]
        places += [
            (f"{source.path}.parameters", source.parameters, True)
            for one in recipe.slices
            for source in one.inputs
        ]
        for path, parameters, of_model in places:
            for name in parameters:
                is_read = (name, True) in self._used or (
                    not of_model and (name, False) in self._used
                )
                if name not in KNOWN:
                    close = difflib.get_close_matches(name, sorted(KNOWN), n=1)
                    hint = f"; did you mean {close[0]}?" if close else ""
                    self.problems.append(f"{path}.{name}: no method here has it{hint}")
                elif not is_read:
                    level = " of a model" if of_model and (name, False) in self._used else ""
                    notes.append(f"{path}.{name}: {recipe.method} ignores it{level}")
        return notes

    def _setting(self, name: str, model: ModelName | None, default: float | None) -> Setting:
        by_slice = []
        for one in self._recipe.slices:
            levels = [
                (one.path, one.parameters.get(name, ())),
                ("", self._recipe.parameters.get(name, ())),
            ]
            own = [source for source in one.inputs if source.model == model]
            levels = [(source.path, source.parameters.get(name, ())) for source in own] + levels
            if default is not None:
                levels.append(("", (Condition(None, default),)))
            path = next((path for path, conditions in levels if conditions), levels[0][0])
            where = f"{path}.parameters.{name}".lstrip(".")
            by_slice.append(self._conditions(in_order([level for _, level in levels]), where))
        return Setting(tuple(by_slice))

    def _conditions(self, conditions: Sequence[Condition], where: str) -> tuple[Condition, ...]:
        try:
            if not conditions or conditions[0].filter is not None:
                raise ValueError("mergekit needs a value without a filter, there is none")
            return numbers_of(conditions)
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
            return (Condition(None, 1.0),)

    def whole(self, name: str, default: int) -> int:
        """Return a whole number that all tensors share."""
        return int(self.number(name, default))

    def number(self, name: str, default: float) -> float:
        """Return a number that all tensors share."""
        value = self.shared(name, default).constant
        if value is None:
            self.problems.append(f"parameters.{name}: must be one value for all tensors here")
            return default
        return as_number(value)
