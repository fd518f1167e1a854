"""Leaderboards as Markdown, CSV and on a terminal: the same bytes from the same records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.board import Board, Row, boards_of
from eval.results import Score, read_records, write_whole
from eval.statistics.standing import Standing, standings_of

Standings = Mapping[str, Standing]
"""Fingerprint of a merge to how it stands."""
_MIB = 2**20
_NO_RECORDS = "No records yet.\n"


def to_markdown(boards: Sequence[Board], standings: Standings | None = None) -> str:
    """Boards as Markdown tables; scores and errors in per cent."""
    tables = (f"{_heading(b)}\n\n{_markdown_table(b, standings or {})}" for b in boards)
    parts = ["# Leaderboard", *tables]
    return "\n\n".join(parts) + "\n" if boards else f"{parts[0]}\n\n{_NO_RECORDS}"


def to_csv(boards: Sequence[Board]) -> str:
    """Boards as one table: fractions, seconds and bytes, in full precision."""
    rows = [_csv_row(board, row) for board in boards for row in board.rows]
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n") if rows else "\n"


def write_leaderboard(root: Path) -> list[Board]:
    """Rebuild ``leaderboard.md`` and ``leaderboard.csv`` of a results folder.

    Raises:
        ValueError: If a record is damaged; names it, and leaves both files as they were.
    """
    boards = boards_of(read_records(root))
    standings = standings_of(root, boards)
    root.mkdir(parents=True, exist_ok=True)
    write_whole(root / "leaderboard.md", to_markdown(boards, standings).encode())
    write_whole(root / "leaderboard.csv", to_csv(boards).encode())
    return boards


def print_summary(boards: Sequence[Board], console: Console) -> None:
    """Print each board without its tasks, for a terminal of 100 columns."""
    for board in boards:
        table = Table(title=f"{board.pool} · {_suite_name(board)}", title_justify="left")
        table.add_column("#", justify="right")
        table.add_column("method", overflow="fold")
        table.add_column("settings", overflow="fold")
        table.add_column("mean %", justify="right", no_wrap=True)
        table.add_column("merge s", justify="right")
        table.add_column("MiB", justify="right")
        table.add_column("status", overflow="ellipsis", no_wrap=True, max_width=28)
        for row in board.rows:
            cells = (_rank(row), row.name, row.own_settings, _mean(row), *_cost(row)[:2])
            table.add_row(*map(escape, (*cells, row.status)))
        console.print(table)
        for method, settings in board.shared_settings.items():
            console.print(f"[bold]{method}[/]: {escape(settings)}", highlight=False)


def _heading(board: Board) -> str:
    """What the table shows and what it does not say."""
    title = f"## {board.pool} on {_suite_name(board)}"
    shared = "; ".join(f"{m}: {settings}" for m, settings in board.shared_settings.items())
    cost = (
        f"{f'Settings of all rows: {shared}. ' if shared else ''}"
        "Merge memory is the peak above where the merge started. "
        f"Models by content: {board.models}."
    )
    if not board.tasks:
        return f"{title}\n\nMerged only, not evaluated. {cost}"
    tasks = ", ".join(f"{t} ({board.domains[t]}, n = {_sizes(board, t)})" for t in board.tasks)
    held_out = (
        f" Tuned for by no source: {', '.join(board.held_out)}." if board.held_out else ""
    )
    return (
        f"{title}\n\n"
        f"Tasks: {tasks}.{held_out} Scores in per cent; the mean is over domains, each the "
        "mean of its tasks; ± is one standard error over documents. Ranks follow the mean alone; "
        "merges share a band unless paired permutation tests over the same documents tell them "
        f"from the band's first (5 %, Holm's correction over the board). {cost}"
    )


def _suite_name(board: Board) -> str:
    split = f", split {board.split}" if board.split is not None else ""
    return "no suite" if board.fingerprint is None else f"suite {board.suite}{split}"


def _sizes(board: Board, task: str) -> str:
    found = {r.record.scores[task].n for r in board.rows if task in r.record.scores}
    return " or ".join(str(n) for n in sorted(found)) or "none"


def _markdown_table(board: Board, standings: Standings) -> str:
    mean = ("mean",) if board.tasks else ()
    header = ("rank", "band", "method", "settings", *mean, *board.tasks, "merge s", "merge MiB")
    header += ("evaluation s", "status") if board.tasks else ("status",)
    lines = [header, tuple("---" for _ in header)]
    for row in board.rows:
        scores = (_mean(row), *(_cell(row, task) for task in board.tasks))
        costs = _cost(row) if board.tasks else _cost(row)[:2]
        standing = standings.get(row.record.fingerprint)
        band = "" if standing is None else str(standing.band)
        start = (_rank(row), band, row.name, row.own_settings)
        lines.append((*start, *(scores if board.tasks else ()), *costs, row.status))
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _csv_row(board: Board, row: Row) -> dict[str, Any]:
    record = row.record
    found: dict[str, Any] = {
        "pool": board.pool,
        "models": board.models,
        "suite": board.suite,
        "split": board.split,
        "kind": record.kind,
        "rank": row.rank if row.rank is None else str(row.rank),
        "method": row.name,
        "settings": row.settings,
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
    for task, score in record.scores.items():
        found |= {task: score.value, f"{task}_stderr": score.stderr}
    return found


def _rank(row: Row) -> str:
    return "" if row.rank is None else str(row.rank)


def _mean(row: Row) -> str:
    if row.mean is None and row.record.suite is None:
        return ""
    if row.mean is None:
        return "incomplete" if row.record.status == "done" else row.absent
    return f"{100 * row.mean.value:.2f} ± {100 * row.mean.stderr:.2f}"


def _cell(row: Row, task: str) -> str:
    score: Score | None = row.record.scores.get(task)
    if score is not None:
        return f"{100 * score.value:.1f}"
    return row.absent


def _cost(row: Row) -> tuple[str, str, str]:
    """Merge seconds, merge MiB, evaluation seconds."""
    merge, evaluation = row.merge_seconds, row.evaluation_seconds
    return (
        "" if merge is None else f"{merge:.2f}",
        "" if row.merge_bytes is None else f"{row.merge_bytes / _MIB:.0f}",
        "" if evaluation is None else f"{evaluation:.1f}",
    )


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
