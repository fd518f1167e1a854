"""Columns of the leaderboard page: headers, and the cell of each row."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from eval.leaderboard.board import Board, Row
from eval.leaderboard.markdown import column_value, mean, measures_on, rank, reported_cell
from eval.leaderboard.measures import Measure, Measured, Standing
from eval.tables import mib, percent, seconds, with_error


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a cell, and the number or text that sorts it; None sorts last."""

    text: str
    key: float | str | None
    best: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """Header of one column, and the function from a row to its cell."""

    label: str
    cell: Callable[[Row], Cell]
    hint: str = ""
    numeric: bool = True
    falling: bool = False
    """True if the first click sorts from high to low."""
    group: str = ""
    """Group of tasks that the column is a subtask of; hidden until the group is expanded."""
    n_subtasks: int = 0
    """Number of subtasks; 0 for all but groups."""
    is_compared: bool = False
    """True for the mean, tasks and groups: two rows are compared by them, in this order."""


def columns_of(
    board: Board, standings: Mapping[str, Standing], measures: Mapping[str, Measured]
) -> tuple[Column, ...]:
    """All columns of a board; what no row can have is left out."""
    evaluated = board.evaluated
    mean_column = Column(
        "mean %", _mean, "± is one standard error", falling=True, is_compared=True
    )
    evaluation_seconds = Column(
        "evaluation s",
        lambda row: Cell(seconds(row.evaluation_seconds, 1), row.evaluation_seconds),
    )
    return (
        Column("method", lambda row: Cell(row.name, row.name), numeric=False),
        Column("rank", lambda row: Cell(rank(row), row.rank)),
        *([mean_column] if evaluated else []),
        *_test_columns(standings),
        Column("settings", _settings, "in which rows of a method differ", numeric=False),
        *(_measure_column(m, measures) for m in measures_on(board, measures)),
        *_score_columns(board),
        *_reported_columns(board),
        Column("merge s", lambda row: Cell(seconds(row.merge_seconds), row.merge_seconds)),
        Column("merge MiB", _memory, "peak resident memory above where the merge started"),
        *([evaluation_seconds] if evaluated else []),
        Column("status", lambda row: Cell(row.status, row.status), numeric=False),
    )


def _test_columns(standings: Mapping[str, Standing]) -> Iterator[Column]:
    """The band, and a probability for every opponent by name; none without standings."""

    def band(row: Row) -> Cell:
        standing = standings.get(row.record.fingerprint)
        return Cell("", None) if standing is None else Cell(str(standing.band), standing.band)

    def chance(opponent: str, row: Row) -> Cell:
        standing = standings.get(row.record.fingerprint)
        share = None if standing is None else standing.better_than.get(opponent)
        return Cell("" if share is None else percent(share, 1), share)

    if standings:
        yield Column(
            "band", band, "merges without a significant difference to their leader share a band"
        )
    rivals = {name for standing in standings.values() for name in standing.better_than}
    for name in sorted(rivals):
        hint = f"probability, in per cent, of being better than {name}"
        yield Column(f"P(> {name})", partial(chance, name), hint, falling=True)


def _measure_column(measure: Measure, measures: Mapping[str, Measured]) -> Column:
    def cell(row: Row) -> Cell:
        value = measures.get(row.record.fingerprint, {}).get(measure.key)
        return Cell(with_error(value, digits=1), None if value is None else value.value)

    return Column(f"{measure.label} %", cell, measure.definition, falling=not measure.is_loss)


def _score_columns(board: Board) -> Iterator[Column]:
    """A column for every task; for a group one that expands into those of its subtasks."""
    for name, shares in board.columns.items():
        domain = board.domains[next(iter(shares))]
        if name in shares:
            hint, cell = f"{domain}, %", _score_cell(board, shares)
            yield Column(name, cell, hint, falling=True, is_compared=True)
            continue
        cell, n = _score_cell(board, shares), len(shares)
        hint = f"{domain}, {n} subtasks, %"
        yield Column(name, cell, hint, falling=True, n_subtasks=n, is_compared=True)
        for task, share in shares.items():
            cell = _score_cell(board, {task: 1.0})
            hint = f"{name}, share {percent(share, 1)} %"
            yield Column(task, cell, hint, falling=True, group=name)


def _reported_columns(board: Board) -> Iterator[Column]:
    """A column for every task that is in no mean, its metric in its own unit."""
    for task, key in board.reported.items():
        metrics = [
            row.record.reported[task][1] for row in board.rows if task in row.record.reported
        ]
        falling = any(metric.higher_is_better for metric in metrics)
        hint = f"{key}, in no mean; {'higher' if falling else 'lower'} is better"
        yield Column(task, partial(_reported_cell, task), hint, falling=falling)


def _reported_cell(task: str, row: Row) -> Cell:
    _, metric = row.record.reported.get(task, (None, None))
    return Cell(reported_cell(row, task), None if metric is None else metric.value)


def _score_cell(board: Board, shares: Mapping[str, float]) -> Callable[[Row], Cell]:
    """Return the function from a row to its score in a column, the best merge's marked."""
    done = [row for row in board.merges if row.record.status == "done"]
    values = [column_value(row, shares) for row in done]
    best = max((value for value in values if value is not None), default=None)

    def cell(row: Row) -> Cell:
        value = column_value(row, shares)
        if value is None:
            return Cell(row.absent, None)
        return Cell(percent(value, 1), value, value == best and row in done)

    return cell


def _mean(row: Row) -> Cell:
    return Cell(mean(row), None if row.mean is None else row.mean.value)


def _settings(row: Row) -> Cell:
    return Cell(row.marked_settings, row.marked_settings or None)


def _memory(row: Row) -> Cell:
    return Cell(mib(row.merge_bytes), row.merge_bytes)
