"""Published numbers: reading ``results/reference``, and holding records against them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from eval.records import Record

T = TypeVar("T")
READ_IN = ("code", "page")
"""Where a number was read: the authors' code or configuration; a paper's page or an issue."""
_STDERRS = 2.0
_FILE_KEYS = {"source", "url", "note", "numbers"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNumber:
    """One number of a paper, with what must agree before ours may be held against it."""

    source: str
    """The publication, from the file's head."""
    method: str
    pivot: str
    """Hub id."""
    sources: tuple[str, ...]
    """Hub ids, in any order."""
    settings: Mapping[str, Any]
    """Those of our method's settings that must agree."""
    task: str
    """lm-eval's name of the task; a name of its own where lm-eval has none."""
    value: float
    """In per cent, as printed."""
    tolerance: float
    """Points by which a faithful repetition may differ, beyond two of its standard errors."""
    read_in: str
    """One of ``READ_IN``."""
    tuned_on_test: bool
    unreproduced: str | None
    """What others found who repeated it; None if nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One file of published numbers."""

    source: str
    url: str
    note: str
    """What is to be known of the numbers, or why there are none."""
    numbers: tuple[PublishedNumber, ...]


def read_references(folder: Path) -> list[Reference]:
    """Read every file of published numbers, by name.

    Raises:
        ValueError: If one is malformed; names the file, the entry, and what was expected.
    """
    return [read_reference(path) for path in sorted(folder.glob("*.yaml"))]


def read_reference(path: Path) -> Reference:
    """Read one file of published numbers.

    Raises:
        ValueError: If it is malformed; names the file, the entry, and what was expected.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        _check_keys("the file", found, _FILE_KEYS)
        heads = {key: _text(key, found[key]) for key in ("source", "url", "note")}
        entries = _checked("numbers", found["numbers"], list)
        numbers = [_number(i, entry, heads["source"]) for i, entry in enumerate(entries)]
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not a readable reference: {error}") from error
    return Reference(**heads, numbers=tuple(numbers))


def verdict_on(number: PublishedNumber, records: Iterable[Record]) -> tuple[str, str]:
    """Hold a published number against the records whose setting matches.

    Args:
        number: What was published.
        records: Of any runs; those that are not done are passed over.

    Returns:
        What came out: ``within tolerance``, ``outside tolerance`` or ``not compared``; and
        the numbers, or the first fact in which every record differs.
    """
    left = [r for r in records if r.kind == "merge" and r.status == "done"]
    for fact, agrees in _FACTS.items():
        matching = [record for record in left if agrees(number, record)]
        if not matching:
            return "not compared", _why_not(fact, number, left)
        left = matching
    found = left[0].scores[number.task]
    ours, stderr = 100 * found.value, 100 * found.stderr
    within = abs(ours - number.value) <= number.tolerance + _STDERRS * stderr
    told = f"ours {ours:.2f} ± {stderr:.2f} ({left[0].fingerprint[:12]})"
    return ("within tolerance" if within else "outside tolerance"), told


def _same_models(number: PublishedNumber, record: Record) -> bool:
    return _models(record) == (number.pivot, sorted(number.sources))


def _same_method(number: PublishedNumber, record: Record) -> bool:
    return record.name == number.method


def _same_settings(number: PublishedNumber, record: Record) -> bool:
    missing = object()
    found = {key: record.settings.get(key, missing) for key in number.settings}
    return found == dict(number.settings)


def _same_task(number: PublishedNumber, record: Record) -> bool:
    return number.task in record.scores


_FACTS = {
    "models": _same_models,
    "method": _same_method,
    "settings": _same_settings,
    "task": _same_task,
}
"""What must agree, in the order in which a difference is named."""


def _why_not(fact: str, number: PublishedNumber, left: Sequence[Record]) -> str:
    """Name the first fact in which no record agrees, and what there is instead."""
    if not left:
        return "no finished merge to compare with"
    wanted, here = {
        "models": (
            f"{' + '.join(number.sources)} into {number.pivot}",
            sorted({_named(r) for r in left}),
        ),
        "method": (number.method, sorted({r.name for r in left})),
        "settings": (_listed(number.settings), sorted({_listed(r.settings) for r in left})),
        "task": (number.task, sorted({task for r in left for task in r.scores})),
    }[fact]
    more = f" and {len(here) - 3} more" if len(here) > 3 else ""
    verb = "differ" if fact in ("models", "settings") else "differs"
    return f"{fact} {verb}: published {wanted}, here {', '.join(here[:3])}{more}"


def _models(record: Record) -> tuple[str, list[str]]:
    sources = [model.location for model in record.models.sources]
    return record.models.pivot.location, sorted(sources)


def _named(record: Record) -> str:
    return record.models.pool


def _listed(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _number(place: int, entry: Any, source: str) -> PublishedNumber:  # noqa: ANN401 (any YAML)
    """One checked entry of ``numbers``."""
    where = f"numbers[{place}]"
    _check_keys(where, entry, {f.name for f in fields(PublishedNumber)} - {"source"})
    sources = _checked(f"{where}.sources", entry["sources"], list)
    if entry["read_in"] not in READ_IN:
        raise ValueError(f"{where}.read_in must be one of {READ_IN}, got {entry['read_in']!r}")
    tolerance = _percentage(f"{where}.tolerance", entry["tolerance"])
    unreproduced = entry["unreproduced"]
    return PublishedNumber(
        source=source,
        method=_text(f"{where}.method", entry["method"]),
        pivot=_text(f"{where}.pivot", entry["pivot"]),
        sources=tuple(_text(f"{where}.sources", name) for name in sources),
        settings=_checked(f"{where}.settings", entry["settings"], dict),
        task=_text(f"{where}.task", entry["task"]),
        value=_percentage(f"{where}.value", entry["value"]),
        tolerance=tolerance,
        read_in=entry["read_in"],
        tuned_on_test=_checked(f"{where}.tuned_on_test", entry["tuned_on_test"], bool),
        unreproduced=unreproduced and _text(f"{where}.unreproduced", unreproduced),
    )


def _check_keys(where: str, found: Any, expected: set[str]) -> None:  # noqa: ANN401 (any YAML)
    if not isinstance(found, dict) or found.keys() != expected:
        got = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{where} must have the keys {sorted(expected)}, got {got}")


def _checked(where: str, value: Any, kind: type[T]) -> T:  # noqa: ANN401 (any YAML)
    if not isinstance(value, kind):
        raise ValueError(f"{where} must be a {kind.__name__}, got {value!r}")
    return value


def _text(where: str, value: Any) -> str:  # noqa: ANN401 (any YAML)
    if not _checked(where, value, str).strip():
        raise ValueError(f"{where} must not be empty")
    return str(value)


def _percentage(where: str, value: Any) -> float:  # noqa: ANN401 (any YAML)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise ValueError(f"{where} must be a number from 0 to 100, got {value!r}")
    return float(value)
