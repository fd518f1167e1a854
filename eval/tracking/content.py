"""Content of a tracker's run: of one record, or of the leaderboard of a results folder."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eval.records import Record, StageCost
from eval.schema import to_json
from eval.statistics.scores import overall_mean

_FILES = ("leaderboard.md", "leaderboard.csv", "leaderboard.html", "figures/*.svg")
_TEXT_COLUMNS = {"pool", "models", "suite", "split", "precision", "kind", "method"} | {
    "settings",
    "tuned_on_test",
    "dtype",
    "fingerprint",
    "status",
}
"""Columns that stay text even if every value looks like a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableContent:
    """Rows of equal length; a column holds one type, or None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContent:
    """Everything one run of a tracker holds, whichever the tracker."""

    name: str
    job_type: str
    tags: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, TableContent] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    """Key to HTML."""
    folder: Path
    """The folder that ``files`` are relative to."""
    files: Sequence[Path]
    """Files of the run's one artifact, which has the name and type of the run."""

    def numbers(self) -> dict[str, float]:
        """Return the entries of the summary that are numbers, truth values left out."""
        return {
            key: float(value)
            for key, value in self.summary.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }

    def texts(self) -> dict[str, str]:
        """Return the entries of the summary that are neither numbers nor absent, as texts."""
        numbers = self.numbers()
        return {
            key: str(value)
            for key, value in self.summary.items()
            if value is not None and key not in numbers
        }

    def flat_config(self) -> dict[str, Any]:
        """Return the configuration by dotted names; lists as JSON, absent values left out."""
        return dict(_leaves(self.config))


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
        elif value is not None:
            yield f"{prefix}{key}", value


def record_content(record: Record, path: Path) -> RunContent:
    """Collect what a tracker is told of a finished run.

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
        "evaluator": dict(record.evaluator),
        "provenance": dict(record.provenance),
    }


def _summary(record: Record) -> dict[str, Any]:
    """Scores, runtime and memory: ``score/<task>``, ``merge/seconds``, ``evaluation/...``."""
    summary: dict[str, Any] = {"status": record.status, "seconds_total": record.seconds_total}
    summary |= {f"score/{task}": score.value for task, score in record.scores.items()}
    summary |= {
        f"metric/{task}/{key}": metric.value
        for task, metrics in record.metrics.items()
        for key, metric in metrics.items()
        if metric.value is not None
    }
    if record.scores:
        mean = overall_mean(record.scores, record.domains, record.groups)
        summary |= {"score/mean": mean.value, "score/mean_stderr": mean.stderr}
    merge = _costs("merge", record.merge_cost)
    return summary | merge | _costs("evaluation", record.evaluation_cost)


def _costs(stage: str, cost: StageCost | None) -> dict[str, Any]:
    if cost is None:
        return {}
    return {f"{stage}/{key}": value for key, value in asdict(cost).items()}


def _score_table(record: Record) -> TableContent:
    """One row per task, in the suite's order."""
    rows = tuple(
        (task, record.domains[task], s.value, s.stderr, s.n, s.raw_metric, s.raw)
        for task, s in record.scores.items()
    )
    columns = ("task", "domain", "score", "stderr", "n", "raw_metric", "raw")
    return TableContent(columns=columns, rows=rows)


def leaderboard_content(root: Path) -> RunContent:
    """Collect the files that ``python -m scripts.leaderboard`` wrote.

    Args:
        root: The results folder.

    Raises:
        FileNotFoundError: If there is no ``leaderboard.csv``.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name)
    figures = sorted(root.glob("figures/*.svg"))
    return RunContent(
        name=f"leaderboard-{name}",
        job_type="leaderboard",
        tables={"leaderboard": _read_table(root / "leaderboard.csv")},
        figures={
            f"figures/{path.stem}": _on_white(path.read_text("utf-8")) for path in figures
        },
        folder=root,
        files=[path for pattern in _FILES for path in sorted(root.glob(pattern))],
    )


def _read_table(path: Path) -> TableContent:
    """Read a CSV file; columns without a value are left out."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        lines = list(reader)
    texts = {name: [line[name] for line in lines] for name in reader.fieldnames or ()}
    columns = {name: _typed(name, column) for name, column in texts.items() if any(column)}
    return TableContent(columns=tuple(columns), rows=tuple(zip(*columns.values(), strict=True)))


def _typed(name: str, texts: Sequence[str]) -> list[Any]:
    """Numbers if the whole column is numeric, else texts; None for an empty cell."""
    if name not in _TEXT_COLUMNS:
        try:
            return [float(text) if text else None for text in texts]
        except ValueError:
            pass
    return [text or None for text in texts]


def _on_white(svg: str) -> str:
    """Set a figure on white: its ink is dark, W&B's page may be too."""
    return f'<div style="background:#fff">{svg}</div>'
