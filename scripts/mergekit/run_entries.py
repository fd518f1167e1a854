"""A translated recipe as the entries of a run: method values, overrides, the pool, the dtype."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from scripts.mergekit.layout import Layout, Names
from scripts.mergekit.parameters import Setting
from scripts.mergekit.recipe import Recipe
from scripts.mergekit.work import Translation
from seme.binding import bind_method, check_method
from seme.override_text import model_value, override_text
from seme.overrides import parse_overrides
from seme.tensor_methods import bind_overrides

_CONF = Path(__file__).resolve().parents[2] / "conf" / "method"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntries:
    """Entries of a run's configuration that a recipe stands for."""

    method: str
    values: Mapping[str, Any]
    """Values of the method for all tensors."""
    overrides: tuple[Mapping[str, Any], ...]
    pivot: Mapping[str, Any]
    sources: tuple[Mapping[str, Any], ...]
    dtype: str | None
    tokens: str | None
    """What becomes of sources of another tokenizer; None leaves it to the run."""
    n_layers: int | None
    """Layers of the result, where they are stacked anew."""
    uneven: tuple[str, ...]
    """Line for each model of which layers are left out or repeated."""

    def arguments(self) -> list[str]:
        """Return the run as arguments of ``run.py``."""
        usual = _defaults(self.method)
        lines = {
            f"method.{key}": value for key, value in self.values.items() if value != usual[key]
        }
        pool = {
            "models.pivot": model_value(self.pivot),
            "models.sources": [*map(model_value, self.sources)],
        }
        entries = {**lines, **pool, "dtype": self.dtype, "tokens": self.tokens}
        entries["overrides"] = list(self.overrides)
        return [
            f"method={self.method}",
            "models=custom",
            *(f"{key}={override_text(value)}" for key, value in entries.items()
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
    layout = Layout.of(recipe, translation, names, settings)
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
        uneven=layout.uneven,
        dtype=recipe.dtype,
        tokens=None if recipe.tokenizer is None else "by_text",
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
    layout: Layout,
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
        overridden = bound.at(name).keywords
        wrong = {
            key: wanted
            for key, setting in settings.items()
            if (wanted := layout.expected(setting, name)) != _own(overridden, key)
        }
        if name not in layout.places:
            corrections += [{"match": glob.escape(name), **wrong}] if wrong else []
        elif any(abs(wanted - _own(overridden, key)) > 1e-9 for key, wanted in wrong.items()):
            raise AssertionError(f"overrides give {name} {overridden}, expected {wrong}")
    return corrections
