"""W&B config, summary and table of scores of one record."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eval.records import Record, StageCost
from eval.schema import to_json
from eval.statistics.scores import overall_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of equal length; a column holds one type, or None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContent:
    """Everything one W&B run holds."""

    name: str
    job_type: str
    tags: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    """Key to HTML."""
    folder: Path
    """The folder that ``files`` are relative to."""
    files: Sequence[Path]
    """Files of the run's one artifact, which has the name and type of the run."""


def record_content(record: Record, path: Path) -> RunContent:
    """Collect what a W&B run holds of a finished run.

    Args:
        record: The record of the run.
        path: Its ``record.json``, the file of the artifact.
    """
    suite_name = "none" if record.suite is None else record.suite.name
    return RunContent(
        name=f"{record.name}-{record.fingerprint[:12]}",
        job_type=record.kind,
        tags=(record.name, record.models.pool, suite_name, record.status),
        config=_config(record),
        summary=_summary(record),
        tables={"scores": _score_table(record)} if record.scores else {},
        folder=path.parent,
        files=[path],
    )


def _config(record: Record) -> dict[str, Any]:
    """The entries that define the run, JSON-ready."""
    return {
        "kind": record.kind,
        "method": record.name,
        "settings": dict(record.settings),
        "models": to_json(record.models),
        "suite": None if record.suite is None else to_json(record.suite),
        "seed": record.seed,
        "dtype": record.dtype,
        "fingerprint": record.fingerprint,
        "provenance": dict(record.provenance),
    }


def _summary(record: Record) -> dict[str, Any]:
    """Scores, runtime and memory: ``score/<task>``, ``merge/seconds``, ``evaluation/...``."""
    summary: dict[str, Any] = {"status": record.status, "seconds_total": record.seconds_total}
    summary |= {f"score/{task}": score.value for task, score in record.scores.items()}
    if record.scores:
        mean = overall_mean(record.scores, record.domains)
        summary |= {"score/mean": mean.value, "score/mean_stderr": mean.stderr}
    merge = _costs("merge", record.merge_cost)
    return summary | merge | _costs("evaluation", record.evaluation_cost)


def _costs(stage: str, cost: StageCost | None) -> dict[str, Any]:
    if cost is None:
        return {}
    return {f"{stage}/{key}": value for key, value in asdict(cost).items()}


def _score_table(record: Record) -> Table:
    """One row per task, in the suite's order."""
    rows = tuple(
        (task, record.domains[task], s.value, s.stderr, s.n, s.raw_metric, s.raw)
        for task, s in record.scores.items()
    )
    columns = ("task", "domain", "score", "stderr", "n", "raw_metric", "raw")
    return Table(columns=columns, rows=rows)
