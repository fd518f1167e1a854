"""The details behind a row of the leaderboard page: everything its record holds, as text."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from eval.records import Record, Score, StageCost

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Section:
    """One group of details behind a row: names and values."""

    title: str
    entries: tuple[tuple[str, str], ...]


def details_of(record: Record) -> tuple[Section, ...]:
    """Everything the record holds but its scores, in groups; empty groups are left out."""
    report = dict(record.merge)
    run = {
        "fingerprint": record.fingerprint,
        "seed": record.seed,
        "dtype": record.dtype,
        "started": record.started_at,
        "seconds in all": record.seconds_total,
    }
    groups = {
        "Settings": _flat(record.settings),
        "Run": _flat(run),
        "Evaluation": _flat(record.suite or {}),
        "Scores": [(task, _score(score)) for task, score in record.scores.items()],
        "Cost of the merge": _cost(record.merge_cost),
        "Cost of the evaluation": _cost(record.evaluation_cost),
        "Diagnostics": _flat(report.pop("diagnostics", {})),
        "Merge": _flat(report),
        "Models": _flat(record.models),
        "Provenance": _flat(record.provenance),
    }
    return tuple(Section(title, tuple(found)) for title, found in groups.items() if found)


def _score(score: Score) -> str:
    return (
        f"{100 * score.value:.2f} ± {100 * score.stderr:.2f} %, n = {score.n}; "
        f"{score.raw_metric} {score.raw:.6g}"
    )


def _cost(cost: StageCost | None) -> list[tuple[str, str]]:
    """Memory in MiB; what was not measured is left out."""
    found = {} if cost is None else asdict(cost)
    return [
        (key.removesuffix("_bytes").replace("_", " "), f"{value / _MIB:.1f} MiB")
        if key.endswith("_bytes")
        else (key, _text(value))
        for key, value in found.items()
        if value is not None
    ]


def _flat(value: Any) -> list[tuple[str, str]]:  # noqa: ANN401 (any JSON)
    """Name every leaf by its path: ``sources.0.name``; lists without structure are leaves."""
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif isinstance(value, list) and any(isinstance(part, Mapping | list) for part in value):
        parts = list(enumerate(value))
    else:
        return [("", _text(value))]
    return [
        (".".join(filter(None, (str(key), name))), text)
        for key, part in parts
        for name, text in _flat(part)
    ]


def _text(value: Any) -> str:  # noqa: ANN401 (any JSON)
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)
