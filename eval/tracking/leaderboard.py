"""What a tracker is told of a results folder: its boards as tables, figures and a ranking."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from eval.leaderboard.board import Board
from eval.leaderboard.figures import Plot, plots_of
from eval.leaderboard.standing import Standing
from eval.leaderboard.view import view_of
from eval.records import RECORD_NAME, run_folder
from eval.schema import to_json
from eval.tracking.content import Table, last_part, paths_in, without_paths
from eval.tracking.lineage import Artifact, steps_of

_FILES = ("leaderboard.md", "leaderboard.csv", "leaderboard.html", "figures/*.svg")
_NAMES = {"pool", "models", "suite", "split", "kind", "method", "settings", "dtype"} | {
    "fingerprint",
    "status",
}
"""Columns of text, also where every name of a board could be read as a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """Everything one run of a tracker shows of a results folder."""

    tables: Mapping[str, Table]
    """``leaderboard/<board>`` and ``tasks/<board>``."""
    figures: Mapping[str, str]
    """``figures/<board>/<figure>`` to HTML."""
    ranking: Mapping[str, Sequence[Mapping[str, Any]]]
    """Board to its ranked merges, best first; scores are fractions."""
    config: Mapping[str, Any]
    used: tuple[Artifact, ...]
    """What the rows stand on: the score of every run that is done."""
    artifact: Artifact
    """The files of the leaderboard."""


def exhibit_of(
    root: Path, boards: Sequence[Board], standings: Mapping[str, Standing]
) -> Exhibit:
    """Gather what the files of a results folder show; they are written already.

    Args:
        root: The results folder.
        boards: What its leaderboard shows, in this order.
        standings: Fingerprint of a merge to how it stands.

    Raises:
        ValueError: If the files are of other records.
    """
    tables: dict[str, Table] = {}
    figures: dict[str, str] = {}
    ranking: dict[str, Sequence[Mapping[str, Any]]] = {}
    for board, table in zip(boards, board_tables(root, boards), strict=True):
        view = view_of(board, plots_of(board), standings)
        tables[f"leaderboard/{view.key}"] = table
        if board.tasks:
            tables[f"tasks/{view.key}"] = tasks_table(board)
        figures |= {f"figures/{view.key}/{plot.name}": _html(plot) for plot in view.plots}
        ranking[view.key] = ranking_of(board, standings)
    return Exhibit(
        tables=tables,
        figures=figures,
        ranking=ranking,
        config={"boards": list(ranking)},
        used=_used(root, boards),
        artifact=_files_of(root, boards),
    )


def board_tables(root: Path, boards: Sequence[Board]) -> list[Table]:
    """Cut ``leaderboard.csv`` into its boards, each with the columns in which it has values.

    Raises:
        ValueError: If the file does not have the boards' rows; says what to do.
    """
    path = root / "leaderboard.csv"
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    expected = [row.record.fingerprint for board in boards for row in board.rows]
    if [line["fingerprint"] for line in lines] != expected:
        raise ValueError(
            f"{path} is of other records than those in the folder; "
            f"run `python -m scripts.leaderboard output={root}`"
        )
    rest = iter(lines)
    return [_table([next(rest) for _ in board.rows]) for board in boards]


def tasks_table(board: Board) -> Table:
    """One row per record and task: what a chart over tasks is drawn from."""
    start = ("kind", "method", "settings", "fingerprint", "task", "domain")
    rows = tuple(
        (
            *(row.record.kind, row.name, row.settings, row.record.fingerprint),
            *(task, board.domains[task]),
            *(score.value, score.stderr, score.n, score.raw_metric, score.raw),
        )
        for row in board.rows
        for task, score in row.record.scores.items()
    )
    columns = (*start, "score", "stderr", "n", "raw_metric", "raw")
    return Table(columns=columns, rows=rows)


def ranking_of(board: Board, standings: Mapping[str, Standing]) -> list[dict[str, Any]]:
    """The ranked merges of a board, best first; ``band`` is None for one without samples."""
    return [
        {
            "rank": row.rank,
            "band": None if standing is None else standing.band,
            "method": row.name,
            "settings": row.own_settings,
            "mean": row.mean.value,
            "mean_stderr": row.mean.stderr,
        }
        for row in board.merges
        for standing in [standings.get(row.record.fingerprint)]
        if row.mean is not None
    ]


def _table(lines: Sequence[Mapping[str, str]]) -> Table:
    columns = tuple(name for name in lines[0] if any(line[name] for line in lines))
    values = [_column(name, [line[name] for line in lines]) for name in columns]
    return Table(columns=columns, rows=tuple(zip(*values, strict=True)))


def _column(name: str, texts: Sequence[str]) -> list[Any]:
    """Numbers where the whole column is numbers, else texts; None where there is nothing."""
    if name not in _NAMES:
        try:
            return [float(text) if text else None for text in texts]
        except ValueError:
            pass
    return [without_paths(text) if text else None for text in texts]


def _html(plot: Plot) -> str:
    """A figure on white, as its ink is dark, with its caption."""
    return (
        '<figure style="background:#fff;margin:0;padding:1em;font-family:sans-serif">'
        f"{plot.svg}<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )


def _used(root: Path, boards: Sequence[Board]) -> tuple[Artifact, ...]:
    """The last artifact of every record on the boards that is done; each once."""
    records = {row.record.fingerprint: row.record for board in boards for row in board.rows}
    return tuple(
        steps_of(r, run_folder(root, r.name, r.fingerprint) / RECORD_NAME)[-1].made
        for r in records.values()
        if r.status == "done"
    )


def _files_of(root: Path, boards: Sequence[Board]) -> Artifact:
    """The leaderboard's files; those that name a path of the machine are changed."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name)
    records = [row.record for board in boards for row in board.rows]
    hidden = sorted(paths_in([[r.error, to_json(r.models), r.merge] for r in records]), key=len)
    found = [path for pattern in _FILES for path in sorted(root.glob(pattern))]
    return Artifact(
        name=f"leaderboard-{name}",
        kind="leaderboard",
        metadata={},
        files={p.relative_to(root).as_posix(): _shown(p, hidden[::-1]) for p in found},
    )


def _shown(path: Path, hidden: Sequence[str]) -> Path | bytes:
    """The file, or its content with the last part of every hidden path in its place."""
    text = path.read_text(encoding="utf-8")
    for place in hidden:
        for written in (place, escape(place)):
            text = text.replace(written, last_part(written))
    return path if text == path.read_text(encoding="utf-8") else text.encode()
