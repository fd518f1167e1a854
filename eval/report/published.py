"""Published numbers of ``results/reference``, read and compared with records."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.records import Record

Text = Annotated[str, Field(pattern=r"\S")]
Percentage = Annotated[float, Field(ge=0, le=100)]
_STDERRS = 2.0


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PublishedNumber(_StrictModel):
    """One number of a paper, and the facts a record must share to be compared with it."""

    method: Text
    pivot: Text
    """Hub id."""
    sources: tuple[Text, ...] = Field(strict=False)
    """Hub ids, in any order."""
    settings: dict[str, Any]
    """Settings of the method that must agree."""
    task: Text
    """lm-eval's name of the task; a name of its own where lm-eval has none."""
    value: Percentage
    """In per cent, as printed."""
    tolerance: Percentage
    """Points by which a faithful repetition may differ, beyond two of its standard errors."""
    read_in: Literal["code", "page"]
    """The authors' code or configuration; a page of a paper or an issue."""
    tuned_on_test: bool
    unreproduced: Text | None
    """Result of others who repeated it; None if nothing is known."""


class Publication(_StrictModel):
    """One file of published numbers."""

    source: Text
    """The publication."""
    url: Text
    note: Text
    """Remarks on the numbers, or why there are none."""
    numbers: tuple[PublishedNumber, ...] = Field(strict=False)


def read_publications(folder: Path) -> list[Publication]:
    """Read every file of published numbers, by name.

    Raises:
        ValueError: If one is malformed; names the file, the entry, and what was expected.
    """
    return [read_publication(path) for path in sorted(folder.glob("*.yaml"))]


def read_publication(path: Path) -> Publication:
    """Read one file of published numbers.

    Raises:
        ValueError: If it is malformed; names the file, the entry, and what was expected.
    """
    try:
        return Publication.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError) as error:
        text = _problems(error) if isinstance(error, ValidationError) else str(error)
        raise ValueError(f"{path} is not a readable reference: {text}") from error


def verdict_on(number: PublishedNumber, records: Iterable[Record]) -> tuple[str, str]:
    """Compare a published number with the first record whose setting matches.

    Args:
        number: The published number.
        records: Records of any runs; those that are not done are skipped.

    Returns:
        Outcome: ``within tolerance``, ``outside tolerance`` or ``not compared``; and
        the numbers, or the first fact in which every record differs.
    """
    left = [r for r in records if r.kind == "merge" and r.status == "done"]
    for fact, agrees in _FACTS.items():
        matching = [record for record in left if agrees(number, record)]
        if not matching:
            return "not compared", _why_not(fact, number, left)
        left = matching
    score = left[0].scores[number.task]
    percent, stderr = 100 * score.value, 100 * score.stderr
    within = abs(percent - number.value) <= number.tolerance + _STDERRS * stderr
    numbers = f"ours {percent:.2f} ± {stderr:.2f} ({left[0].fingerprint[:12]})"
    return ("within tolerance" if within else "outside tolerance"), numbers


def _same_models(number: PublishedNumber, record: Record) -> bool:
    return _models(record) == (number.pivot, sorted(number.sources))


def _same_method(number: PublishedNumber, record: Record) -> bool:
    return record.name == number.method


def _same_settings(number: PublishedNumber, record: Record) -> bool:
    missing = object()
    settings = {key: record.settings.get(key, missing) for key in number.settings}
    return settings == number.settings


def _same_task(number: PublishedNumber, record: Record) -> bool:
    return number.task in record.scores


_FACTS = {
    "models": _same_models,
    "method": _same_method,
    "settings": _same_settings,
    "task": _same_task,
}
"""Facts that must agree, in the order in which a difference is named."""


def _why_not(fact: str, number: PublishedNumber, records: Sequence[Record]) -> str:
    """Name the first fact in which no record agrees, and up to three values of records."""
    if not records:
        return "no finished merge to compare with"
    wanted, present = {
        "models": (
            f"{' + '.join(number.sources)} into {number.pivot}",
            sorted({_named(r) for r in records}),
        ),
        "method": (number.method, sorted({r.name for r in records})),
        "settings": (_listed(number.settings), sorted({_listed(r.settings) for r in records})),
        "task": (number.task, sorted({task for r in records for task in r.scores})),
    }[fact]
    more = f" and {len(present) - 3} more" if len(present) > 3 else ""
    verb = "differ" if fact in ("models", "settings") else "differs"
    return f"{fact} {verb}: published {wanted}, here {', '.join(present[:3])}{more}"


def _models(record: Record) -> tuple[str, list[str]]:
    sources = [model.location for model in record.models.sources]
    return record.models.pivot.location, sorted(sources)


def _named(record: Record) -> str:
    return record.models.pool


def _listed(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _problems(error: ValidationError) -> str:
    """Name every faulty entry with what was expected, and what came unless it is missing."""
    problems = []
    for problem in error.errors():
        entry = ".".join(map(str, problem["loc"])) or "the file"
        got = "" if problem["type"] == "missing" else f", got {problem['input']!r}"
        problems.append(f"{entry}: {problem['msg']}{got}")
    return "; ".join(problems)
