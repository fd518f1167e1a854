"""The leaderboard as one HTML page that needs no network, and its figures as files."""

import base64
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval.leaderboard.board import Board, Row
from eval.leaderboard.columns import Cell, Column, columns_of
from eval.leaderboard.details import details_of
from eval.leaderboard.drawing import INK
from eval.leaderboard.figures import Plot, plots_of
from eval.leaderboard.markdown import (
    MEASURED,
    NOT_TRUSTED,
    TUNED_ON_TEST,
    evaluation,
    measures_on,
)
from eval.leaderboard.measures import Measure, Measured, Standing
from eval.leaderboard.pairs import PAIR_RESAMPLES, Pairs, pairs_of
from eval.records import RECORD_NAME, Record, run_folder
from eval.results_folder import Problem
from eval.run_files import atomic_write

_FOLDER = Path(__file__).parent
_DRAWN = re.compile(r".*-[0-9a-f]{8}\.[a-z-]+\.svg")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """One row as the page shows it; its first cell is the method."""

    key: str
    """First digits of the fingerprint, as in the name of the run's folder."""
    method: str
    label: str
    """Method and the settings in which its rows differ."""
    is_merge: bool
    failed: bool
    """True if the row shows an error in place of a result."""
    cells: tuple[Cell, ...]
    files: Mapping[str, str]
    """``record`` and ``card`` to their addresses from the page; those that are there."""
    details: list[Any]
    """Error, command to repeat the run, and sections; the first two may be None."""


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
    details: Mapping[str, Any]
    """Details of the rows in their order, JSON-ready."""
    plots: tuple[Plot, ...]
    pairs: Mapping[str, Any] | None
    """Intervals of paired differences, JSON-ready; None where no two rows can be compared."""


def view_of(
    board: Board,
    plots: Sequence[Plot],
    standings: Mapping[str, Standing],
    measures: Mapping[str, Measured] | None = None,
    commands: Mapping[str, str] | None = None,
    root: Path | None = None,
) -> BoardView:
    """Build the view of one board.

    Args:
        board: From ``boards_of``.
        plots: Its figures.
        standings: Fingerprint of a merge to its standing; of other boards too.
        measures: Fingerprint of a merge to its measures; of other boards too.
        commands: Fingerprint of a run to the command that repeats it.
        root: The results folder, whose files rows link to.
    """
    measures, commands = measures or {}, commands or {}
    tested = {r.record.fingerprint for r in board.merges} & standings.keys()
    columns = columns_of(board, {key: standings[key] for key in tested}, measures)
    rows = tuple(
        _row_view(row, columns, commands.get(row.record.fingerprint), root)
        for row in board.rows
    )
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
        rows=rows,
        details=_shared([row.details for row in rows]),
        plots=tuple(plots),
        pairs=_pairs_view(pairs_of(board), columns),
    )


def _row_view(
    row: Row, columns: Sequence[Column], command: str | None, root: Path | None
) -> RowView:
    record = row.record
    sections = [[s.title, [*map(list, s.entries)]] for s in details_of(record)]
    return RowView(
        key=_key(record.fingerprint),
        method=row.name,
        label=f"{row.name} {row.own_settings}".rstrip(),
        is_merge=record.kind == "merge",
        failed=record.status != "done",
        cells=tuple(column.cell(row) for column in columns),
        files={} if root is None else _files(record, root),
        details=[record.error, command, sections],
    )


def _shared(details: Sequence[list[Any]]) -> dict[str, Any]:
    """Details of rows with each text once, and its number wherever it stands."""
    numbers: dict[str, int] = {}

    def numbered(value: Any) -> Any:  # noqa: ANN401 (nested lists of texts)
        if isinstance(value, list):
            return [*map(numbered, value)]
        return None if value is None else numbers.setdefault(value, len(numbers))

    rows = numbered(details)
    return {"texts": [*numbers], "rows": rows}


def _key(fingerprint: str) -> str:
    return fingerprint[:12]


def _files(record: Record, root: Path) -> dict[str, str]:
    """Addresses, from the page, of the record and of the card of a kept merge."""
    files = {"record": run_folder(root, record.name, record.fingerprint) / RECORD_NAME}
    kept = record.origin.get("merged_dir")
    if kept is not None:
        files["card"] = Path(os.path.expanduser(kept)) / "README.md"  # noqa: PTH111 (no error)
    return {
        name: quote(os.path.relpath(path, root))
        for name, path in files.items()
        if os.path.isfile(path)  # noqa: PTH113 (False, not an error, for a name too long)
    }


def _pairs_view(pairs: Pairs | None, columns: Sequence[Column]) -> dict[str, Any] | None:
    """Intervals of the paired differences with the places of their columns in the table."""
    if pairs is None:
        return None
    places = {column.label: i for i, column in enumerate(columns) if column.is_compared}
    return {
        "rows": [*map(_key, pairs.rows)],
        "columns": [min(places.values()), *(places[name] for name in pairs.columns)],
        "smallest": pairs.smallest,
        "ratio": pairs.ratio,
        "halfWidths": pairs.half_widths,
    }


def write_page(
    root: Path,
    boards: Sequence[Board],
    standings: Mapping[str, Standing] | None = None,
    measures: Mapping[str, Measured] | None = None,
    problems: Sequence[Problem] = (),
    commands: Mapping[str, str] | None = None,
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
        commands: Fingerprint of a run to the command that repeats it.
    """
    views = [
        view_of(board, plots_of(board), standings or {}, measures, commands, root)
        for board in boards
    ]
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
        pair_resamples=PAIR_RESAMPLES,
        pools=sorted({view.pool for view in views}),
        suites=sorted({view.suite for view in views}),
        methods=sorted({row.method for view in views for row in view.rows if row.is_merge}),
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
        # in the page's own ink; the texts of a figure were escaped when it was drawn
        themed=lambda svg: svg.replace(INK, "var(--ink)"),
    )
