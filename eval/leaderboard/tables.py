"""Leaderboards as Markdown, CSV and on a terminal: the same bytes from the same records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.leaderboard.board import Board, Row, boards_of
from eval.leaderboard.markdown import (
    TUNED_ON_TEST,
    board_section,
    costs,
    mean,
    options_of,
    problem_list,
    rank,
)
from eval.leaderboard.measures import MEASURES, Measured, Standing, measures_of, standings_of
from eval.results_folder import Problem, load_results
from eval.run_files import atomic_write
from eval.statistics.scores import column_score
from eval.tables import csv_cell, one_line

Standings = Mapping[str, Standing]
"""Standings by run fingerprint."""
Measures = Mapping[str, Measured]
"""Measures by run fingerprint."""
_NO_RECORDS = "No records yet."


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """Boards, standings, measures and problems of a results folder."""

    boards: Sequence[Board]
    standings: Standings
    measures: Measures
    problems: Sequence[Problem]


def read_leaderboard(root: Path) -> Leaderboard:
    """Load a results folder; rank, test and measure its runs; list the invalid ones."""
    results = load_results(root)
    boards = boards_of(results.runs)
    return Leaderboard(
        boards=boards,
        standings=standings_of(boards),
        measures=measures_of(boards),
        problems=results.problems,
    )


def write_tables(root: Path, leaderboard: Leaderboard) -> None:
    """Write ``leaderboard.md`` and ``leaderboard.csv`` of a results folder."""
    text = to_markdown(
        leaderboard.boards, leaderboard.standings, leaderboard.measures, leaderboard.problems
    )
    root.mkdir(parents=True, exist_ok=True)
    atomic_write(root / "leaderboard.md", text.encode(errors="replace"))
    csv = to_csv(leaderboard.boards, leaderboard.measures)
    atomic_write(root / "leaderboard.csv", csv.encode(errors="replace"))


def problem_lines(root: Path, problems: Sequence[Problem]) -> str:
    """The problems as lines for a terminal, each with the path of its file."""
    lines = (one_line(f"{root / problem.path} {problem.message}") for problem in problems)
    return "".join(f"fault: {line}\n" for line in lines)


def to_markdown(
    boards: Sequence[Board],
    standings: Standings | None = None,
    measures: Measures | None = None,
    problems: Sequence[Problem] = (),
) -> str:
    """Boards as Markdown tables; scores and errors in per cent."""
    parts = ["# Leaderboard"]
    parts += [problem_list(problems)] if problems else []
    parts += [board_section(board, standings or {}, measures or {}) for board in boards]
    return "\n\n".join(parts if boards else [*parts, _NO_RECORDS]) + "\n"


def to_csv(boards: Sequence[Board], measures: Measures | None = None) -> str:
    """Boards as one table: fractions, seconds and bytes, in full precision."""
    measures = measures or {}
    cells = (
        _csv_row(board, row, measures.get(row.record.fingerprint, {}))
        for board in boards
        for row in board.rows
    )
    rows = [{csv_cell(key): csv_cell(cell) for key, cell in row.items()} for row in cells]
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n") if rows else "\n"


def print_summary(boards: Sequence[Board], console: Console) -> None:
    """Print each board without its tasks, for a terminal of 100 columns."""
    for board in boards:
        title = escape(one_line(f"{board.pool} · {board.title}{options_of(board)}"))
        table = Table(title=title, title_justify="left")
        table.add_column("#", justify="right")
        table.add_column("method", overflow="fold")
        table.add_column("settings", overflow="fold")
        table.add_column("mean %", justify="right", no_wrap=True)
        table.add_column("merge s", justify="right")
        table.add_column("merge MiB", justify="right")
        table.add_column("status", overflow="ellipsis", no_wrap=True, max_width=28)
        for row in board.rows:
            cells = (rank(row), row.name, row.marked_settings, mean(row), *costs(row)[:2])
            table.add_row(*(escape(one_line(cell)) for cell in (*cells, row.status)))
        console.print(table)
        if any(row.tuned_on_test for row in board.merges):
            console.print(TUNED_ON_TEST, highlight=False)
        for method, settings in board.shared_settings.items():
            console.print(f"[bold]{method}[/]: {escape(one_line(settings))}", highlight=False)


def _csv_row(board: Board, row: Row, measured: Measured) -> dict[str, Any]:
    record = row.record
    cells: dict[str, Any] = {
        "pool": board.pool,
        "models": board.models,
        "suite": board.suite,
        "split": board.split,
        "precision": board.precision,
        "kind": record.kind,
        "rank": row.rank if row.rank is None else str(row.rank),
        "method": row.name,
        "settings": row.settings,
        "tuned_on_test": row.tuned_on_test,
        "seed": record.seed,
        "dtype": record.dtype,
        "fingerprint": record.fingerprint,
        "status": row.status,
        "mean": None if row.mean is None else row.mean.value,
        "mean_stderr": None if row.mean is None else row.mean.stderr,
        "merge_seconds": row.merge_seconds,
        "merge_peak_bytes": None if row.merge_bytes is None else str(row.merge_bytes),
        "evaluation_seconds": row.evaluation_seconds,
    }
    for measure in MEASURES:
        value = measured.get(measure.key)
        cells[measure.key] = None if value is None else value.value
        cells[f"{measure.key}_stderr"] = None if value is None else value.stderr
    for name, shares in board.columns.items():
        if name not in shares and record.scores.keys() >= shares.keys():
            group = column_score(shares, record.scores)
            cells |= {name: group.value, f"{name}_stderr": group.stderr}
    for task, score in record.scores.items():
        cells |= {task: score.value, f"{task}_stderr": score.stderr}
    for task, (key, metric) in record.reported.items():
        name = f"{task}_{key.partition(',')[0]}"
        cells |= {name: metric.value, f"{name}_stderr": metric.stderr}
    return cells
