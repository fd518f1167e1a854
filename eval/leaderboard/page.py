"""The leaderboard as one HTML page that needs no network, and its figures as files."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval.leaderboard.board import Board
from eval.leaderboard.drawing import INK
from eval.leaderboard.figures import plots_of
from eval.leaderboard.markdown import MEASURED, NOT_TRUSTED, TUNED_ON_TEST
from eval.leaderboard.measures import Measured
from eval.leaderboard.standing import Standing
from eval.leaderboard.view import BoardView, view_of
from eval.records import atomic_write
from eval.results_folder import Problem

_FOLDER = Path(__file__).parent
_DRAWN = re.compile(r".*-[0-9a-f]{8}\.[a-z-]+\.svg")


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
        themed=_themed,
    )


def _themed(svg: str) -> Markup:
    """A figure in the page's own ink; its texts were escaped when it was drawn."""
    return Markup(svg.replace(INK, "var(--ink)"))
