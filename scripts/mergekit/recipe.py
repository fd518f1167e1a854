"""mergekit's YAML, read within bounds: models, slices and parameters, every mistake by its path."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.mergekit.recipe_file import MOST_PROBLEMS, load_mapping
from scripts.mergekit.setting import Condition, conditions_of
from seme.checkpoint.model_folder import expanded

_DTYPES = ("bfloat16", "float16", "float32")
_TOP = {
    "merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype",
    "out_dtype", "tokenizer_source", "tokenizer", "chat_template",
}  # fmt: skip
_MODEL = {"model", "parameters"}
_SOURCE = {"model", "layer_range", "parameters"}
_SLICE = {"sources", "base_model", "residual_weight", "parameters"}

Parameters = Mapping[str, tuple[Condition, ...]]
"""Settings by the name of the parameter."""


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model as mergekit names it: ``path@revision+adapter@revision``."""

    location: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None

    @property
    def label(self) -> str:
        """The name in mergekit's form."""
        adapter = "" if self.adapter is None else "+" + _at(self.adapter, self.adapter_revision)
        return _at(self.location, self.revision) + adapter

    def entry(self) -> dict[str, str]:
        """Return the model's entry in a pool."""
        parts = {
            "location": self.location,
            "revision": self.revision,
            "path_to_adapter": self.adapter,
            "adapter_revision": self.adapter_revision,
        }
        return {key: value for key, value in parts.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A model of a slice."""

    model: ModelName
    layers: tuple[int, int] | None
    """First layer and the one after the last; None for all."""
    parameters: Parameters
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Layers of the result, and the models they are merged from."""

    inputs: tuple[Input, ...]
    parameters: Parameters
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A configuration of mergekit, its shape checked."""

    method: str
    base: ModelName | None
    slices: tuple[Slice, ...]
    """One without a range of layers where the configuration lists ``models``."""
    parameters: Parameters
    dtype: str | None
    """Dtype of the result; None keeps that of the models."""
    compute_dtype: str | None
    """Dtype that mergekit computes in; None is that of the models."""
    tokenizer: ModelName | None
    """Model whose tokenizer the result gets, where the configuration names one."""


def read_recipe(path: Path) -> tuple[Recipe | None, list[str]]:
    """Read a configuration of mergekit.

    Args:
        path: The YAML file, of at most a hundred thousand bytes, whose aliases do not grow without bound.

    Returns:
        The recipe, None where its method or its models are missing; and one line, with its path
        in the file, for everything that is unknown, malformed or not expressible here.

    Raises:
        ValueError: If the file cannot be read as YAML, or is no mapping.
    """
    reader = _Reader(path.absolute().parent)
    return reader.recipe(load_mapping(path)), reader.problems


class _Reader:
    """Reads the parts of a configuration, and collects what is wrong with them."""

    def __init__(self, folder: Path) -> None:
        self.problems: list[str] = []
        self._folder = folder

    def recipe(self, content: Mapping[str, Any]) -> Recipe | None:
        self._known(content, _TOP, "")
        method = content.get("merge_method")
        if not isinstance(method, str):
            self._add("merge_method", f"must be the name of a method, got {method!r:.60}")
        given = content.get("base_model")
        base = None if given is None else self._model(given, "base_model")
        slices = self._slices(content, base)
        dtype = self._dtype(content, "dtype")
        tokenizer = self._tokenizer(content, base)
        if content.get("chat_template") is not None:
            self._add("chat_template", "cannot be set: the result has the pivot's")
        parameters = self._parameters(content.get("parameters"), "parameters")
        out_dtype = self._dtype(content, "out_dtype")
        if not isinstance(method, str) or not slices:
            return None
        return Recipe(
            method=method,
            base=base,
            slices=tuple(slices),
            parameters=parameters,
            dtype=out_dtype or dtype,
            compute_dtype=dtype,
            tokenizer=tokenizer,
        )

    def _add(self, path: str, text: str) -> None:
        self.problems.append(f"{path}: {text}")

    def _known(self, content: Mapping[Any, Any], known: Iterable[str], path: str) -> None:
        names = sorted(known)
        for key in content:
            if key not in names:
                is_named = len(self.problems) < MOST_PROBLEMS
                close = difflib.get_close_matches(f"{key!s:.60}", names, n=1) * is_named
                hint = f"did you mean {close[0]}?" if close else f"only {', '.join(names)}"
                self._add(_joined(path, str(key)[:60]), f"mergekit has no such key; {hint}")

    def _slices(self, content: Mapping[str, Any], base: ModelName | None) -> list[Slice]:
        given = [
            key
            for key in ("models", "slices", "modules")
            if content.get(key) not in (None, [], {})
        ]
        if len(given) != 1:
            keys = " and ".join(given) or "neither"
            self._add(
                "models", f"exactly one of models, slices and modules is needed, got {keys}"
            )
        if "modules" in given:
            self._add("modules", "cannot be expressed: models of several modules")
        if given == ["models"]:
            inputs = tuple(self._inputs(content["models"], "models", _MODEL))
            listed = [one.model for one in inputs]
            if inputs and base is not None and base not in listed:  # as mergekit adds it
                added = Input(model=base, layers=None, parameters={}, path="base_model")
                inputs = (*inputs, added)
            return [Slice(inputs=inputs, parameters={}, path="models")] if inputs else []
        if given == ["slices"]:
            return list(self._stacked(content["slices"], base))
        return []

    def _stacked(self, entries: object, base: ModelName | None) -> Iterator[Slice]:
        for path, entry in self._mappings(entries, "slices"):
            self._known(entry, _SLICE, path)
            own = entry.get("base_model")
            if own is not None and self._model(own, f"{path}.base_model") != base:
                self._add(f"{path}.base_model", "must be the base_model of the whole merge")
            if entry.get("residual_weight") is not None:
                self._add(f"{path}.residual_weight", "cannot be expressed")
            inputs = tuple(self._inputs(entry.get("sources"), f"{path}.sources", _SOURCE))
            parameters = self._parameters(entry.get("parameters"), f"{path}.parameters")
            if inputs:
                yield Slice(inputs=inputs, parameters=parameters, path=path)

    def _inputs(self, entries: object, path: str, known: set[str]) -> Iterator[Input]:
        seen = set()
        for place, entry in self._mappings(entries, path):
            self._known(entry, known, place)
            model = self._model(entry.get("model"), f"{place}.model")
            parameters = self._parameters(entry.get("parameters"), f"{place}.parameters")
            layers = None
            if "layer_range" in known:
                layers = self._range(entry.get("layer_range"), f"{place}.layer_range")
            if model in seen:
                self._add(f"{place}.model", "is listed twice, which mergekit takes for one")
            if model is not None:
                seen.add(model)
                yield Input(model=model, layers=layers, parameters=parameters, path=place)

    def _mappings(self, entries: object, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if not isinstance(entries, list) or not entries:
            self._add(path, f"must be a list of mappings, got {entries!r:.60}")
            return
        for i, entry in enumerate(entries):
            if isinstance(entry, dict):
                yield f"{path}.{i}", entry
            else:
                self._add(f"{path}.{i}", f"must be a mapping, got {entry!r:.60}")

    def _range(self, value: object, path: str) -> tuple[int, int] | None:
        is_range = (
            isinstance(value, list)
            and len(value) == 2
            and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
        )
        if is_range and isinstance(value, list) and 0 <= value[0] < value[1]:
            return value[0], value[1]
        self._add(path, f"must be [first, last + 1] such as [0, 32], got {value!r:.60}")
        return None

    def _model(self, value: object, path: str) -> ModelName | None:
        if isinstance(value, str) and value:
            model, _, adapter = value.partition("+")
            return self._named(path, model, adapter or None)
        if isinstance(value, dict):
            self._known(value, {"model", "lora", "override_architecture"}, path)
            if value.get("override_architecture") is not None:
                self._add(f"{path}.override_architecture", "cannot be expressed")
            name, lora = (_path_text(value.get(key)) for key in ("model", "lora"))
            if name:
                return self._named(path, name, lora)
        self._add(path, f"must name a model, got {value!r:.60}")
        return None

    def _named(self, path: str, model: str, adapter: str | None) -> ModelName | None:
        parts = [part.split("@") for part in (model, *([adapter] if adapter else []))]
        if any(len(part) > 2 or not all(part) for part in parts):
            self._add(
                path,
                f"must be a folder or a Hub id with at most one @REVISION, got {model!r:.60}",
            )
            return None
        names = [(self._place(part[0]), part[1] if len(part) == 2 else None) for part in parts]
        return ModelName(*names[0], *(names[1] if adapter else (None, None)))

    def _place(self, location: str) -> str:
        """Return a folder's absolute path where it is one, seen from here; else the Hub id."""
        folder = expanded(location, Path.cwd())
        return location if folder is None or not folder.exists() else str(folder)

    def _dtype(self, content: Mapping[str, Any], key: str) -> str | None:
        value = content.get(key)
        if value is None:
            return None
        name = str(value).removeprefix("torch.")
        if name not in _DTYPES:
            self._add(key, f"must be one of {', '.join(_DTYPES)}, got {value!r:.60}")
            return None
        return name

    def _tokenizer(
        self, content: Mapping[str, Any], base: ModelName | None
    ) -> ModelName | None:
        path, source = self._tokenizer_source(content)
        if source is None:
            return None
        if source == "union":
            self._add(path, "union cannot be expressed: the result has one model's tokenizer")
            return None
        if source != "base":
            return self._model(source, path)
        if base is None:
            self._add(path, "base needs a base_model")
        return base

    def _tokenizer_source(self, content: Mapping[str, Any]) -> tuple[str, object]:
        """Return where the tokenizer's source stands, and what it is."""
        tokenizer = content.get("tokenizer")
        if tokenizer is None:
            return "tokenizer_source", content.get("tokenizer_source")
        if content.get("tokenizer_source") is not None:
            self._add("tokenizer", "must not be given beside tokenizer_source")
        if not isinstance(tokenizer, dict):
            self._add("tokenizer", f"must be a mapping, got {tokenizer!r:.60}")
            return "tokenizer", None
        for key in tokenizer:
            if key != "source" and tokenizer[key]:
                self._add(f"tokenizer.{key}", "cannot be expressed")
        return "tokenizer.source", tokenizer.get("source", "union")

    def _parameters(self, value: object, path: str) -> Parameters:
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            self._add(path, f"must be a mapping, got {value!r:.60}")
            return {}
        parsed = {}
        for key, setting in value.items():
            try:
                parsed[key] = conditions_of(setting)
            except ValueError as error:
                self._add(f"{path}.{key}", str(error))
        return parsed


def _path_text(value: object) -> str | None:
    """Return a path with its revision in mergekit's short form."""
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        return _at(value["path"], value.get("revision"))
    return value if isinstance(value, str) else None


def _at(location: str, revision: str | None) -> str:
    return location if revision is None else f"{location}@{revision}"


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
