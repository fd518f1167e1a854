"""Details of a row on the page: everything its record holds, in groups of names and values."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from eval.records import Record, Score, StageCost
from eval.schema import to_json
from eval.tables import leaves, metric_text, mib, percent


@dataclass(frozen=True, slots=True)
class Section:
    """Group of details of a row: names and values."""

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
        "Settings": _leaves(record.settings),
        "Run": _leaves(run),
        "Evaluation": _leaves({} if record.suite is None else to_json(record.suite)),
        "Evaluator": _leaves(record.evaluator),
        "Scores": [(task, _score(score)) for task, score in record.scores.items()],
        "Metrics in no mean": list(_metrics(record)),
        "Cost of the merge": _cost(record.merge_cost),
        "Cost of the evaluation": _cost(record.evaluation_cost),
        "Diagnostics": _leaves(report.pop("diagnostics", {})),
        "Merge": _leaves(report),
        "Models": _leaves(to_json(record.models)),
        "Provenance": _leaves(record.provenance),
    }
    return tuple(Section(title, tuple(entries)) for title, entries in groups.items() if entries)


def _score(score: Score) -> str:
    value = f"{percent(score.value)} ± {percent(score.stderr)} %, n = {score.n}"
    return f"{value}; {score.raw_metric} {score.raw:.6g}"


def _metrics(record: Record) -> Iterator[tuple[str, str]]:
    """Metrics of tasks beside the scores, each with its direction where the task says it."""
    directions = {True: ", higher is better", False: ", lower is better", None: ""}
    for task, metrics in record.metrics.items():
        for key, metric in metrics.items():
            yield (
                f"{task}: {key}",
                f"{metric_text(metric)}, n = {metric.n}{directions[metric.higher_is_better]}",
            )


def _cost(cost: StageCost | None) -> list[tuple[str, str]]:
    """Memory in MiB; what was not measured is left out."""
    entries = {} if cost is None else asdict(cost)
    return [
        (key.removesuffix("_bytes").replace("_", " "), f"{mib(value, 1)} MiB")
        if key.endswith("_bytes")
        else (key, _text(value))
        for key, value in entries.items()
        if value is not None
    ]


def _leaves(value: Any) -> list[tuple[str, str]]:  # noqa: ANN401 (any JSON)
    return [(path, _text(leaf)) for path, leaf in leaves(value)]


def _text(value: Any) -> str:  # noqa: ANN401 (any JSON)
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)
