"""A translation of a recipe in the making: its models, values, differences and problems."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scripts.mergekit.parameters import RecipeParameters, Setting
from scripts.mergekit.recipe import ModelName, Recipe

AS_MERGEKIT = "--as-mergekit has it"

Values = Mapping[str, "Setting | Sequence[Setting] | bool | int | float | str | None"]
"""By parameter of the method: settings may differ by tensor, the others do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """A recipe as a method of this project."""

    method: str
    """Stem of its file in ``conf/method``."""
    pivot: ModelName
    sources: tuple[ModelName, ...]
    values: Values
    differences: tuple[str, ...]
    """Where the method's definition differs from mergekit's, one line each."""


@dataclass(slots=True, kw_only=True)
class Work:
    """A translation in the making."""

    recipe: Recipe
    parameters: RecipeParameters
    as_mergekit: bool
    models: tuple[ModelName, ...]
    """All inputs, in order."""
    base: ModelName | None
    problems: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def others(self) -> tuple[ModelName, ...]:
        """The inputs but the base."""
        return tuple(model for model in self.models if model != self.base)

    def done(
        self, method: str, values: Values, sources: Sequence[ModelName] | None = None
    ) -> Translation:
        return Translation(
            method=method,
            pivot=self.base or self.models[0],
            sources=self.others if sources is None else tuple(sources),
            values=values,
            differences=tuple(self.differences),
        )

    def lacking(self, path: str, text: str, *, there: bool = True) -> None:
        """Note what this project's method cannot do; mergekit's reading may."""
        self.problems.append(f"{path}: {text}" + (f"; {AS_MERGEKIT}" if there else ""))

    def alike(self, settings: Sequence[Setting], name: str) -> Setting:
        """Return the setting that all sources share."""
        if any(setting != settings[0] for setting in settings):
            self.lacking(
                f"models.*.parameters.{name}",
                f"must be the same for all models, the method here has no {name} per source",
            )
        return settings[0]

    def demand_base(self) -> None:
        """Note that the method needs a base, where there is none."""
        if self.base is None:
            self.lacking("base_model", f"{self.recipe.method} needs one", there=False)
