"""What the leaderboard page shows of a board: columns, cells and figures."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from eval.leaderboard.board import Board, Row
from eval.leaderboard.figures import Plot
from eval.leaderboard.markdown import evaluation, percent, shown_measures
from eval.leaderboard.measures import Measure, Measured
from eval.leaderboard.standing import Standing
from eval.records import Record, Score, StageCost

_DETAIL_MIB = 2**20


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
        (key.removesuffix("_bytes").replace("_", " "), f"{value / _DETAIL_MIB:.1f} MiB")
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


_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell shows, and the number or text that sorts it; None sorts last."""

    text: str
    key: float | str | None
    best: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """Head of one column, and how it shows a row."""

    label: str
    cell: Callable[[Row], Cell]
    hint: str = ""
    numeric: bool = True
    falling: bool = False
    """Whether the first click sorts from high to low."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """One row as the page shows it; its first cell is the method."""

    method: str
    is_merge: bool
    failed: bool
    """Whether there is an error in place of a result."""
    cells: tuple[Cell, ...]
    error: str | None
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardView:
    """One board as the page shows it."""

    key: str
    """Unique among boards and safe in a file's name."""
    pool: str
    suite: str
    models: str
    tasks: tuple[tuple[str, str, str], ...]
    """Task, domain, number of documents."""
    held_out: tuple[str, ...]
    evaluation: str
    """How the models were evaluated, a sentence; empty if none was."""
    shared_settings: Mapping[str, str]
    """Method to the settings that all its rows have in common."""
    tested: bool
    """Whether any merge has a standing."""
    marked: bool
    """Whether any row was tuned on the test split."""
    measures: tuple[Measure, ...]
    """Those that a merge has."""
    columns: tuple[Column, ...]
    rows: tuple[RowView, ...]
    plots: tuple[Plot, ...]


def view_of(
    board: Board,
    plots: Sequence[Plot],
    standings: Mapping[str, Standing],
    measures: Mapping[str, Measured] | None = None,
) -> BoardView:
    """What the page shows of one board.

    Args:
        board: From ``boards_of``.
        plots: Its figures.
        standings: Fingerprint of a merge to how it stands; of other boards too.
        measures: Fingerprint of a merge to what it is worth; of other boards too.
    """
    measures = measures or {}
    here = {r.record.fingerprint for r in board.merges} & standings.keys()
    columns = _columns(
        board, {fingerprint: standings[fingerprint] for fingerprint in here}, measures
    )
    split = "" if board.split is None else f", {board.split}"
    other = board.precision not in (None, "float32")
    precision = f", evaluated in {board.precision}" if other else ""
    return BoardView(
        key=_key(board),
        pool=board.pool,
        suite="no suite" if board.fingerprint is None else f"{board.suite}{split}{precision}",
        models=board.models,
        tasks=tuple((task, board.domains[task], _sizes(board, task)) for task in board.tasks),
        held_out=board.held_out,
        evaluation=evaluation(board).strip(),
        shared_settings=board.shared_settings,
        tested=bool(here),
        marked=any(row.tuned_on_test for row in board.merges),
        measures=tuple(shown_measures(board, measures)),
        columns=columns,
        rows=tuple(_row_view(row, columns) for row in board.rows),
        plots=tuple(plots),
    )


def _row_view(row: Row, columns: Sequence[Column]) -> RowView:
    return RowView(
        method=row.name,
        is_merge=row.record.kind == "merge",
        failed=row.record.status != "done",
        cells=tuple(column.cell(row) for column in columns),
        error=row.record.error,
        sections=details_of(row.record),
    )


def _columns(
    board: Board, standings: Mapping[str, Standing], measures: Mapping[str, Measured]
) -> tuple[Column, ...]:
    """All columns of a board; what no row can have is left out."""
    evaluated = bool(board.tasks)
    mean = Column("mean %", _mean, "± is one standard error", falling=True)
    seconds = Column("evaluation s", lambda row: _number(row.evaluation_seconds, "{:.1f}"))
    return (
        Column("method", lambda row: Cell(row.name, row.name), numeric=False),
        Column("rank", lambda row: _number(row.rank, "{}")),
        *([mean] if evaluated else []),
        *_test_columns(standings),
        Column("settings", _settings, "in which rows of a method differ", numeric=False),
        *(_measure_column(m, measures) for m in shown_measures(board, measures)),
        *(_task_column(board, task) for task in board.tasks),
        Column("merge s", lambda row: _number(row.merge_seconds, "{:.2f}")),
        Column("merge MiB", _memory, "peak resident memory above where the merge started"),
        *([seconds] if evaluated else []),
        Column("status", lambda row: Cell(row.status, row.status), numeric=False),
    )


def _test_columns(standings: Mapping[str, Standing]) -> Iterator[Column]:
    """The band, and a probability for every opponent by name; none without standings."""

    def band(row: Row) -> Cell:
        standing = standings.get(row.record.fingerprint)
        return _number(None if standing is None else standing.band, "{}")

    def chance(opponent: str, row: Row) -> Cell:
        standing = standings.get(row.record.fingerprint)
        found = None if standing is None else standing.better_than.get(opponent)
        return Cell("" if found is None else f"{100 * found:.1f}", found)

    if standings:
        yield Column("band", band, "merges that tests do not tell apart share a band")
    for name in sorted(
        {name for standing in standings.values() for name in standing.better_than}
    ):
        hint = f"probability, in per cent, of being better than {name}"
        yield Column(f"P(> {name})", partial(chance, name), hint, falling=True)


def _measure_column(measure: Measure, measures: Mapping[str, Measured]) -> Column:
    def cell(row: Row) -> Cell:
        found = measures.get(row.record.fingerprint, {}).get(measure.key)
        return Cell(percent(found, 1), None if found is None else found.value)

    return Column(f"{measure.label} %", cell, measure.told, falling=not measure.is_loss)


def _task_column(board: Board, task: str) -> Column:
    done = [row.record for row in board.merges if row.record.status == "done"]
    best = max((r.scores[task].value for r in done if task in r.scores), default=None)

    def cell(row: Row) -> Cell:
        score = row.record.scores.get(task)
        if score is None:
            return Cell(row.absent, None)
        is_best = score.value == best and row.record in done
        return Cell(f"{100 * score.value:.1f}", score.value, is_best)

    return Column(task, cell, f"{board.domains[task]}, %", falling=True)


def _mean(row: Row) -> Cell:
    if row.mean is None:
        return Cell("incomplete" if row.record.status == "done" else row.absent, None)
    return Cell(percent(row.mean), row.mean.value)


def _settings(row: Row) -> Cell:
    return Cell(row.shown_settings, row.shown_settings or None)


def _memory(row: Row) -> Cell:
    return _number(None if row.merge_bytes is None else row.merge_bytes / _MIB, "{:.0f}")


def _number(value: float | None, form: str) -> Cell:
    return Cell("" if value is None else form.format(value), value)


def _sizes(board: Board, task: str) -> str:
    found = {r.record.scores[task].n for r in board.rows if task in r.record.scores}
    return " or ".join(map(str, sorted(found))) or "none"


def _key(board: Board) -> str:
    """Pool and suite for a reader, a hash of what tells boards apart."""
    facts = [board.pool, board.models, board.fingerprint]
    other = board.precision not in (None, "float32")
    told_apart = json.dumps([*facts, board.precision] if other else facts)
    names = [re.sub(r"[^A-Za-z0-9]+", "-", name)[:40] for name in (board.pool, board.suite)]
    return "-".join([*names, hashlib.sha256(told_apart.encode()).hexdigest()[:8]])
