"""Pool of models as configured: entries checked, places named; no model is opened."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seme.checks import did_you_mean
from seme.labels import Place, labels_of, stacked_label
from seme.licences import check_terms, describe_terms

_POOL_KEYS = {"pivot", "sources"}
_OPTIONAL_POOL_KEYS = {"name", "references"}
_MODEL_KEYS = {"name", "location", "revision", "path_to_adapter", "adapter_revision"}
_TERMS = {"licence", "gated"}
_LAYERS = "layers"
"""Entry of a model: ranges of its layers, stacked."""
_MOST_LAYERS = 1000
"""Of a stacked model: several times the deepest published; every layer takes memory of a plan."""
BASE = "base"
"""Entry of a source: what it was fine-tuned from, where that is not the pivot."""
_PLACED = ("location", "revision")
_NO_TEXTS = _TERMS | {_LAYERS, BASE}


def check_pool(models: Mapping[str, Any]) -> dict[str, Any]:
    """Check a pool of models and write it out in full; no model is opened."""
    if not _POOL_KEYS <= models.keys() <= _POOL_KEYS | _OPTIONAL_POOL_KEYS:
        raise ValueError(
            f"a pool of models has {sorted(_POOL_KEYS)} and may have "
            f"{sorted(_OPTIONAL_POOL_KEYS)}, got {sorted(models)}"
            f"{_nearest(models, _POOL_KEYS | _OPTIONAL_POOL_KEYS)}"
        )
    pool = {"name": None, "references": [], **models}
    if not isinstance(pool["name"], str | None) or pool["name"] == "":
        raise ValueError(
            f'models.name must be a text, got {pool["name"]!r}: write "..." or null'
        )
    for key in ("sources", "references"):
        if not isinstance(pool[key], list | tuple):
            raise ValueError(f"models.{key} must be a list such as [A,B], got {pool[key]!r}")
        pool[key] = [_entry(model) for model in pool[key]]
    pool["pivot"] = _entry(pool["pivot"])
    for entry in (pool["pivot"], *pool["references"]):
        if entry.get(BASE) is not None:
            raise ValueError(
                f"a base of its own is for sources, of which the difference to it is merged, got "
                f"{entry}: remove base"
            )
    return pool


def terms_of_pool(models: Mapping[str, Any]) -> list[str]:
    """Describe licences of a pool's models and access to them; no model is opened.

    Args:
        models: The pool as in a run's configuration.

    Raises:
        ValueError: If the pool, or an entry in it, is malformed.
    """
    pool = check_pool(models)
    entries = (pool["pivot"], *pool["sources"], *pool["references"])
    labels = labels_of([place_of(entry, Path()) for entry in entries])
    return describe_terms(list(zip(labels, entries, strict=True)))


def _nearest(entries: Mapping[str, Any], known: set[str]) -> str:
    """Say which keys were probably meant by those that are unknown."""
    return did_you_mean(map(str, entries.keys() - known), known)


def _entry(model: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Check a model given as a location, or as a mapping of its entries; return the mapping."""
    entry = {"location": model} if isinstance(model, str) else model
    if (
        not isinstance(entry, Mapping)
        or not entry.keys() <= _MODEL_KEYS | _NO_TEXTS
        or not _is_placed(entry)
    ):
        raise ValueError(
            f"a model is a folder, a GGUF file, a hub id or a mapping of "
            f'{sorted(_MODEL_KEYS)}, each a text (revision: "1"), and of {sorted(_TERMS)} and '
            f"layers, and of a source base; got {model!r}"
            f"{_nearest(entry, _MODEL_KEYS | _NO_TEXTS) if isinstance(entry, Mapping) else ''}"
        )
    check_terms(entry)
    _check_layers(entry)
    return _with_base(entry)


def _with_base(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Write a source's base out as a mapping; an adapter without another one is applied to it."""
    base = entry.get(BASE)
    if base is None:
        return entry
    given = {"location": base} if isinstance(base, str) else base
    if (
        not isinstance(given, Mapping)
        or not given.keys() <= set(_PLACED)
        or not given.get("location")
        or not all(isinstance(value, str | None) for value in given.values())
    ):
        raise ValueError(
            "base of a source is a folder, a GGUF file, a hub id or a mapping of location and "
            f'revision, each a text (revision: "1"), got {base!r:.200}'
        )
    if entry.get("path_to_adapter") is not None:
        applied_to = {k: entry[k] for k in _PLACED if entry.get(k) is not None}
        if applied_to and applied_to != {k: v for k, v in given.items() if v is not None}:
            raise ValueError(
                "base and location of an adapter are both what it is applied to, got "
                f"{given} and {applied_to}: give one of them"
            )
        entry = {**entry, **given}
    return {**entry, BASE: given}


def _check_layers(entry: Mapping[str, Any]) -> None:
    ranges = entry.get(_LAYERS)
    if ranges is None:
        return
    if not isinstance(ranges, list | tuple) or not ranges or not all(map(_is_range, ranges)):
        raise ValueError(
            "layers of a model must be ranges [first, last + 1] such as [[0, 24], [8, 32]], "
            f"got {ranges!r:.100}"
        )
    if (n_layers := sum(end - first for first, end in ranges)) > _MOST_LAYERS:
        raise ValueError(
            f"layers of a model must be at most {_MOST_LAYERS} in all, got {n_layers}"
        )
    if entry.get("path_to_adapter") is not None:
        raise ValueError(
            f"layers are of models that are no adapters, got {entry}: merge the adapter into "
            "its base first"
        )


def _is_range(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
        and 0 <= value[0] < value[1]
    )


def place_of(entry: Mapping[str, Any], root: Path) -> Place:
    """Return where a model is; an adapter's place is its own, not its base's.

    A model of stacked layers without a name gets one that tells it from the whole model.
    """
    own = "adapter_" if entry.get("path_to_adapter") is not None else ""
    location = entry["path_to_adapter" if own else "location"]
    shown, name = portable(location, root), entry.get("name")
    if name is None and entry.get(_LAYERS) is not None:
        name = stacked_label(shown, entry[_LAYERS])
    return Place(name, shown, entry.get(f"{own}revision"))


def portable(location: str, root: Path) -> str:
    """Shorten an absolute path to one from ``root`` or from ``~``: records name no account."""
    installed = Path(__file__).resolve().parents[1]  # models that come with the package
    for folder, prefix in ((root, Path()), (installed, Path()), (Path.home(), Path("~"))):
        if Path(location).is_relative_to(folder):
            return (prefix / Path(location).relative_to(folder)).as_posix()
    return location


def _is_placed(entry: Mapping[str, Any]) -> bool:
    """Return True if an entry has a location, and all that it has are texts or null."""
    places = [entry.get(key) for key in ("location", "path_to_adapter")]
    texts = (value for key, value in entry.items() if key not in _NO_TEXTS)
    are_texts = all(isinstance(value, str | None) for value in texts)
    return any(places) and are_texts
