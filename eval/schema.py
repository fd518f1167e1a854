"""Dataclasses from parsed JSON and back; errors name the entry by its dotted path."""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import lru_cache
from typing import Any, TypeVar, Union, get_args, get_origin

T = TypeVar("T")

MORE = "more"
"""Name of the field that takes the keys an object has besides its other fields."""
LISTED_BY = "listed_by"
"""Metadata of a field of type ``Mapping[str, X]``: in JSON a list of X, each with this key."""
IF_ANY = "if_any"
"""Metadata of a field with a default: left out of the JSON where it is empty."""

_LARGEST = 2**63
"""Bound of whole numbers: larger ones fit neither an array nor most other programs."""
_DEEPEST = 64
"""Most objects and lists within one another."""
_LONGEST = 1_000_000
"""Most characters of one text."""

_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    list: "a list",
    bool: "true or false",
    type(None): "null",
}


def check_json(value: Any) -> None:  # noqa: ANN401 (any JSON)
    """Check that parsed JSON can be computed with, shown, and written again.

    Raises:
        ValueError: If a number is not finite or too large for 64 bits, a text is too long or holds
            half of a character (a lone surrogate), or objects and lists are nested too deep;
            names the entry.
    """
    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    while waiting:
        path, entry, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError(
                f"{path:.60}... is nested too deep: at most {_DEEPEST} objects and lists"
            )
        if isinstance(entry, dict):
            waiting += [("the names of its keys", key, depth) for key in entry]
            waiting += [(f"{path}.{key:.60}", part, depth + 1) for key, part in entry.items()]
        elif isinstance(entry, list):
            waiting += [(f"{path}.{i}", part, depth + 1) for i, part in enumerate(entry)]
        elif problem := _leaf_problem(entry):
            name = ascii(path.removeprefix("."))[1:-1]
            raise ValueError(f"{name:.200} {problem}")


def _leaf_problem(leaf: Any) -> str | None:  # noqa: ANN401 (any JSON)
    """Say what is wrong with a text or number; None if nothing is."""
    if isinstance(leaf, float) and not math.isfinite(leaf):
        return f"must be a finite number, got {leaf}"
    if isinstance(leaf, int) and not -_LARGEST <= leaf < _LARGEST:
        return f"must fit 64 bits, got a number of {leaf.bit_length()} bits"
    if isinstance(leaf, str):
        if len(leaf) > _LONGEST:
            return f"must have at most {_LONGEST} characters, got {len(leaf)}"
        try:
            leaf.encode()
        except UnicodeEncodeError:
            return f"must be text in Unicode, got half a character in {leaf!a:.60}"
    return None


def build(cls: type[T], value: Any, path: str = "") -> T:  # noqa: ANN401 (any JSON)
    """Build a dataclass from a JSON object, field by field.

    Types are not converted: a whole number stands for a float, nothing else for another type.

    Args:
        cls: A dataclass; its fields are texts, numbers, booleans, mappings, tuples or
            dataclasses, each ``| None`` where null is allowed.
        value: Parsed JSON.
        path: Dotted path of the value, for errors; empty for a whole file.

    Raises:
        ValueError: If the value is no object, a key is missing or unknown, or an entry has
            another type; names the entry, what was expected and what came.
    """
    if not isinstance(value, dict):
        subject = f"{path} must be" if path else "expected"
        raise ValueError(f"{subject} an object, got {type_name(type(value))}")
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    known.pop(MORE, None)
    takes_more = any(field.name == MORE for field in fields(cls))  # type: ignore[arg-type]
    rest = {key: entry for key, entry in value.items() if key not in known}
    missing = sorted(key for key, field in known.items() if key not in value and _needed(field))
    if missing or (rest and not takes_more):
        place = f"{path}: " if path else ""
        unknown = [] if takes_more else sorted(rest)
        raise ValueError(f"{place}unknown keys {unknown}, missing keys {missing}")
    prefix = f"{path}." if path else ""
    entries = {
        key: _field_value(field, value[key], f"{prefix}{key}")
        for key, field in known.items()
        if key in value
    }
    return cls(**entries, **({MORE: rest} if takes_more else {}))


def build_columns(cls: type[Any], rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Check many JSON objects against one dataclass, and collect their entries by key.

    Args:
        cls: A dataclass of texts, numbers and booleans, each ``| None`` where null is allowed.
        rows: Parsed JSON, one object for each instance.

    Returns:
        Field name to one entry per row; None where a field with a default is missing.

    Raises:
        ValueError: If a row is no object, has an unknown key, lacks one, or an entry has
            another type; names the key and the value.
    """
    if not_objects := [row for row in rows if type(row) is not dict]:
        raise ValueError(f"expected an object, got {not_objects[0]!r:.60}")
    known = {field.name: field for field in fields(cls)}
    if unknown := sorted(set().union(*rows) - known.keys()):
        raise ValueError(f"unknown keys {unknown}, missing keys []")
    columns = {}
    for key, field in known.items():
        kind: Any = field.type
        needed = _needed(field)
        try:
            columns[key] = [row[key] if needed else row.get(key) for row in rows]
        except KeyError:
            lacking = next(row for row in rows if key not in row)
            raise ValueError(
                f"unknown keys [], missing keys {[key]} in {lacking!r:.60}"
            ) from None
        if wrong := set(map(type, columns[key])).difference(json_types(kind)):
            value = next(value for value in columns[key] if type(value) in wrong)
            raise wrong_type(key, kind, value)
    return columns


def to_json(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """Turn a dataclass into what ``build`` reads: objects, lists and leaves."""
    if is_dataclass(value):
        entries = {
            field.name: _field_json(field, getattr(value, field.name))
            for field in fields(value)
            if getattr(value, field.name) or not field.metadata.get(IF_ANY)
        }
        more = entries.pop(MORE, {})
        return {**entries, **more}
    if isinstance(value, Mapping):
        return {key: to_json(entry) for key, entry in value.items()}
    return list(map(to_json, value)) if isinstance(value, list | tuple) else value


@lru_cache
def json_types(kind: Any) -> tuple[type, ...]:  # noqa: ANN401 (any annotation)
    """List the Python types that parsed JSON may have where a field has this annotation."""
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(t for option in get_args(kind) for t in json_types(option))
    if kind is float:
        return int, float
    if is_dataclass(kind) or get_origin(kind) is Mapping:
        return (dict,)
    return (list,) if get_origin(kind) is tuple else (kind,)


def type_name(*kinds: type) -> str:
    """Name types in the words of JSON: ``a number or null``."""
    named = [kind for kind in kinds if kind is not int or float not in kinds]
    return " or ".join(_NAMES.get(kind, kind.__name__) for kind in named)


def wrong_type(path: str, kind: Any, value: Any) -> ValueError:  # noqa: ANN401 (any JSON)
    """Error with the types that an entry may have, and its value."""
    return ValueError(f"{path} must be {type_name(*json_types(kind))}, got {value!r:.60}")


def _needed(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _field_value(field: Field[Any], value: Any, path: str) -> Any:  # noqa: ANN401 (any JSON)
    key = field.metadata.get(LISTED_BY)
    if key is None:
        return _entry(field.type, value, path)
    if not isinstance(value, list):
        raise ValueError(f"{path} must be a list, got {value!r:.60}")
    return _by_key(value, key, get_args(field.type)[1], path)


def _by_key(items: Sequence[Any], key: str, kind: type[T], path: str) -> dict[str, T]:
    """Build a mapping from a list of objects that each name their key."""
    built: dict[str, T] = {}
    for i, item in enumerate(items):
        rest = {k: v for k, v in item.items() if k != key} if isinstance(item, dict) else item
        entry = build(kind, rest, f"{path}.{i}")
        if type(name := item.get(key)) is not str:
            raise wrong_type(f"{path}.{i}.{key}", str, name)
        if name in built:
            raise ValueError(f"{path} must name every {key} once, {name!r} is there twice")
        built[name] = entry
    return built


def _field_json(field: Field[Any], value: Any) -> Any:  # noqa: ANN401 (any JSON)
    key = field.metadata.get(LISTED_BY)
    if key is None:
        return to_json(value)
    return [{key: name, **to_json(entry)} for name, entry in value.items()]


def _entry(kind: Any, value: Any, path: str) -> Any:  # noqa: ANN401 (any JSON)
    """Check one value against an annotation; build the dataclasses in it."""
    if type(value) not in json_types(kind):
        raise wrong_type(path, kind, value)
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = [option for option in get_args(kind) if option is not type(None)]
    if value is None:
        return None
    if is_dataclass(kind):
        return build(kind, value, path)  # type: ignore[arg-type]
    if get_origin(kind) is tuple:
        return tuple(_entry(get_args(kind)[0], v, f"{path}.{i}") for i, v in enumerate(value))
    if get_origin(kind) is Mapping and get_args(kind)[1] is not Any:
        of_entry = get_args(kind)[1]
        return {key: _entry(of_entry, entry, f"{path}.{key}") for key, entry in value.items()}
    return value
