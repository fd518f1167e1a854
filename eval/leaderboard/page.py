"""The leaderboard as one HTML page that needs no network, and its figures as files."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval.leaderboard.board import Board, Row
from eval.leaderboard.details import Section, details_of
from eval.leaderboard.drawing import INK
from eval.leaderboard.figures import Plot, plots_of
from eval.leaderboard.markdown import (
    MEASURED,
    NOT_TRUSTED,
    TUNED_ON_TEST,
    column_value,
    evaluation,
    mean,
    measures_on,
    rank,
    reported_cell,
)
from eval.leaderboard.measures import Measure, Measured, Standing
from eval.records import atomic_write
from eval.results_folder import Problem
from eval.tables import mib, percent, seconds, with_error

_FOLDER = Path(__file__).parent
_DRAWN = re.compile(r".*-[0-9a-f]{8}\.[a-z-]+\.svg")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """One row as the page shows it; its first cell is the method."""

    method: str
    is_merge: bool
    failed: bool
    """True if the row shows an error in place of a result."""
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
    reported: Mapping[str, str]
    """Task that is in no mean to its ``metric,filter``."""
    held_out: tuple[str, ...]
    evaluation: str
    """Sentence on precision, lm-eval version and limit; empty if no model was evaluated."""
    shared_settings: Mapping[str, str]
    """Method to the settings that all its rows have in common."""
    tested: bool
    """True if a merge has a standing."""
    marked: bool
    """True if a row was tuned on the test split."""
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
    """Build the view of one board.

    Args:
        board: From ``boards_of``.
        plots: Its figures.
        standings: Fingerprint of a merge to its standing; of other boards too.
        measures: Fingerprint of a merge to its measures; of other boards too.
    """
    measures = measures or {}
    tested = {r.record.fingerprint for r in board.merges} & standings.keys()
    columns = _columns(board, {key: standings[key] for key in tested}, measures)
    return BoardView(
        key=board.key,
        pool=board.pool,
        suite=board.title,
        models=board.models,
        tasks=tuple(
            (task, board.domains[task], board.n_documents(task)) for task in board.tasks
        ),
        reported=board.reported,
        held_out=board.held_out,
        evaluation=evaluation(board).strip(),
        shared_settings=board.shared_settings,
        tested=bool(tested),
        marked=any(row.tuned_on_test for row in board.merges),
        measures=tuple(measures_on(board, measures)),
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
    evaluated = board.evaluated
    mean_column = Column("mean %", _mean, "± is one standard error", falling=True)
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
            yield Column(name, _score_cell(board, shares), f"{domain}, %", falling=True)
            continue
        cell, n = _score_cell(board, shares), len(shares)
        hint = f"{domain}, {n} subtasks, %"
        yield Column(name, cell, hint, falling=True, n_subtasks=n)
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


def write_page(
    root: Path,
    boards: Sequence[Board],
    standings: Mapping[str, Standing] | None = None,
    measures: Mapping[str, Measured] | None = None,
    problems: Sequence[Problem] = (),
) -> None:
    """Write ``leaderboard.html`` and ``figures/*.svg`` under a results folder.

    Figures of boards that are gone are deleted; other files in the folder stay.

    Args:
        root: The results folder.
        boards: From ``boards_of``.
        standings: Fingerprint of a merge to its standing; their columns are shown on
            the boards where a merge has one.
        measures: Fingerprint of a merge to its measures, shown in the same way.
        problems: Problems of the results folder, listed above the boards.
    """
    views = [view_of(b, plots_of(b), standings or {}, measures or {}) for b in boards]
    page = to_html(views, problems).encode(errors="replace")
    figures = {f"{v.key}.{plot.name}.svg": plot.svg for v in views for plot in v.plots}
    folder = root / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in figures.items():
        atomic_write(folder / name, svg.encode())
    for path in folder.glob("*.svg"):
        if path.name not in figures and _DRAWN.fullmatch(path.name):
            path.unlink()
    atomic_write(root / "leaderboard.html", page)


def to_html(views: Sequence[BoardView], problems: Sequence[Problem] = ()) -> str:
    """Render the page; every text of a record is escaped, and only page.js may run."""
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2").render(
        boards=views,
        problems=[(problem.path.as_posix(), problem.message) for problem in problems],
        not_trusted=NOT_TRUSTED,
        tuned_on_test=TUNED_ON_TEST,
        measured=MEASURED,
        pools=sorted({view.pool for view in views}),
        suites=sorted({view.suite for view in views}),
        methods=sorted({row.method for view in views for row in view.rows if row.is_merge}),
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
        # in the page's own ink; the texts of a figure were escaped when it was drawn
        themed=lambda svg: Markup(svg.replace(INK, "var(--ink)")),
    )
