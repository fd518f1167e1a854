"""Leaderboards from records: one per pool of models and suite, the same bytes every time."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.results import Record, Score, read_records, write_whole
from eval.stats import Estimate, mean_score

_MIB = 2**20
_NO_RECORDS = "No records yet.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record on a board."""

    rank: int | None
    """From 1 among the complete merges; equal means share a rank. None: not ranked."""
    record: Record
    settings: str
    """Hyper-parameters as ``tau=0.1 lam=1``; seed and dtype where they vary on the board."""
    mean: Estimate | None
    """Mean score over all tasks of the board; None unless every task has one."""

    @property
    def status(self) -> str:
        """``done``, or ``failed: `` with the first line of the error."""
        if self.record.error is None:
            return "done"
        return f"failed: {(self.record.error.splitlines() or ['no message'])[0]}"

    @property
    def merge_seconds(self) -> float | None:
        cost = self.record.merge_cost
        return None if cost is None else cost.seconds

    @property
    def merge_bytes(self) -> int | None:
        """Peak resident memory of the merge above where it started."""
        cost = self.record.merge_cost
        return None if cost is None else cost.peak_rss_bytes - cost.base_rss_bytes

    @property
    def evaluation_seconds(self) -> float | None:
        cost = self.record.evaluation_cost
        return None if cost is None else cost.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """All records of one pool on one suite."""

    pool: str
    suite: str
    """Name of the suite, ``none`` for merges that were not evaluated."""
    split: str | None
    fingerprint: str | None
    """The suite's."""
    held_out: tuple[str, ...]
    domains: dict[str, str]
    """Task to domain, in the suite's order."""
    references: tuple[Row, ...]
    merges: tuple[Row, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.domains)

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.references + self.merges


def leaderboard(records: Iterable[Record]) -> list[Board]:
    """Sort records into boards and rank them; the order of the records does not matter."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda r: (r.kind, r.name, r.fingerprint)):
        groups[record.models["pool"], _suite_fingerprint(record) or ""].append(record)
    return [_board(pool, groups[pool, suite]) for pool, suite in sorted(groups)]


def to_markdown(boards: Sequence[Board]) -> str:
    """Boards as Markdown tables; scores and errors in per cent."""
    parts = ["# Leaderboard", *(f"{_heading(b)}\n\n{_markdown_table(b)}" for b in boards)]
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
    boards = leaderboard(read_records(root))
    root.mkdir(parents=True, exist_ok=True)
    write_whole(root / "leaderboard.md", to_markdown(boards).encode())
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
            cells = (_rank(row), row.record.name, row.settings, _mean(row), *_cost(row)[:2])
            table.add_row(*map(escape, (*cells, row.status)))
        console.print(table)


def _suite_fingerprint(record: Record) -> str | None:
    return None if record.suite is None else record.suite["fingerprint"]


def _board(pool: str, records: list[Record]) -> Board:
    """One board; ``records`` share pool and suite and are sorted."""
    suite = records[0].suite or {"name": "none", "split": None, "held_out": []}
    domains = {task: domain for r in records for task, domain in r.domains.items()}
    varying = [key for key in ("seed", "dtype") if _varies(records, key)]
    rows = [_row(record, domains, varying) for record in records]
    return Board(
        pool=pool,
        suite=suite["name"],
        split=suite["split"],
        fingerprint=_suite_fingerprint(records[0]),
        held_out=tuple(suite["held_out"]),
        domains=domains,
        references=tuple(row for row in rows if row.record.kind == "reference"),
        merges=_ranked([row for row in rows if row.record.kind == "merge"]),
    )


def _varies(records: Sequence[Record], key: str) -> bool:
    return len({getattr(r, key) for r in records if r.kind == "merge"}) > 1


def _row(record: Record, domains: dict[str, str], varying: Sequence[str]) -> Row:
    settings = dict(record.settings)
    if record.kind == "merge":
        settings |= {key: getattr(record, key) for key in varying}
    complete = bool(domains) and record.scores.keys() >= domains.keys()
    usable = complete and record.status == "done"
    return Row(
        rank=None,
        record=record,
        settings=" ".join(f"{key}={_setting(value)}" for key, value in settings.items()),
        mean=mean_score([record.scores[task] for task in domains]) if usable else None,
    )


def _ranked(rows: list[Row]) -> tuple[Row, ...]:
    """Complete merges by falling mean, then the others that are done, then the failed."""

    def place(row: Row) -> tuple[bool, bool, float]:
        value = 0.0 if row.mean is None else row.mean.value
        return row.record.status == "failed", row.mean is None, -value

    means = [row.mean.value for row in rows if row.mean is not None]
    return tuple(
        Row(
            rank=None if row.mean is None else 1 + sum(m > row.mean.value for m in means),
            record=row.record,
            settings=row.settings,
            mean=row.mean,
        )
        for row in sorted(rows, key=place)
    )


def _heading(board: Board) -> str:
    """What the table shows and what it does not say."""
    title = f"## {board.pool} on {_suite_name(board)}"
    cost = "Merge memory is the peak above where the merge started."
    if not board.tasks:
        return f"{title}\n\nMerged only, not evaluated. {cost}"
    tasks = ", ".join(f"{t} ({board.domains[t]}, n = {_sizes(board, t)})" for t in board.tasks)
    held_out = (
        f" Tuned for by no source: {', '.join(board.held_out)}." if board.held_out else ""
    )
    return (
        f"{title}\n\n"
        f"Tasks: {tasks}.{held_out} Scores in per cent; the mean counts every task once; "
        "± is one standard error over documents. Ranks follow the mean alone: this table does "
        "not test differences. Methods see the same documents, so whether two of them differ "
        f"(by more than 2 standard errors of the paired difference) needs the samples. {cost}"
    )


def _suite_name(board: Board) -> str:
    split = f", split {board.split}" if board.split is not None else ""
    return "no suite" if board.fingerprint is None else f"suite {board.suite}{split}"


def _sizes(board: Board, task: str) -> str:
    found = {r.record.scores[task].n for r in board.rows if task in r.record.scores}
    return " or ".join(str(n) for n in sorted(found)) or "none"


def _markdown_table(board: Board) -> str:
    mean = ("mean",) if board.tasks else ()
    header = ("rank", "method", "settings", *mean, *board.tasks, "merge s", "merge MiB")
    header += ("evaluation s", "status") if board.tasks else ("status",)
    lines = [header, tuple("---" for _ in header)]
    for row in board.rows:
        scores = (_mean(row), *(_cell(row, task) for task in board.tasks))
        costs = _cost(row) if board.tasks else _cost(row)[:2]
        start = (_rank(row), row.record.name, row.settings)
        lines.append((*start, *(scores if board.tasks else ()), *costs, row.status))
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _csv_row(board: Board, row: Row) -> dict[str, Any]:
    record = row.record
    found: dict[str, Any] = {
        "pool": board.pool,
        "suite": board.suite,
        "split": board.split,
        "kind": record.kind,
        "rank": row.rank if row.rank is None else str(row.rank),
        "method": record.name,
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
        return "failed" if row.record.status == "failed" else "incomplete"
    return f"{100 * row.mean.value:.2f} ± {100 * row.mean.stderr:.2f}"


def _cell(row: Row, task: str) -> str:
    score: Score | None = row.record.scores.get(task)
    if score is not None:
        return f"{100 * score.value:.1f}"
    return "failed" if row.record.status == "failed" else "missing"


def _cost(row: Row) -> tuple[str, str, str]:
    """Merge seconds, merge MiB, evaluation seconds."""
    merge, evaluation = row.merge_seconds, row.evaluation_seconds
    return (
        "" if merge is None else f"{merge:.2f}",
        "" if row.merge_bytes is None else f"{row.merge_bytes / _MIB:.0f}",
        "" if evaluation is None else f"{evaluation:.1f}",
    )


def _setting(value: Any) -> str:  # noqa: ANN401 (any JSON)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
