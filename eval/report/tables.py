"""Tables of a report: scores and costs, tests, runs without a score, models, environment."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.leaderboard.board import MARK, Board, Row
from eval.records import ModelRef, PoolRef, Record
from eval.report.evidence import Entry, Test, entries_of, title
from eval.report.render import Table
from eval.statistics.scores import Estimate, domain_means

MIB = 2**20
MOST_OPEN = 12
"""Tables of evidence with more rows are folded."""
_TEST_HEADER = ("models", "run", "against", "difference", "95 % interval", "p", "p (Holm)", "")


def paper_table(board: Board) -> Table:
    """Performance, runtime and memory, in the form of the paper's comparison.

    Unmerged models first; then a line per method and setting, seeds averaged.
    """
    domains = tuple(dict.fromkeys(board.domains.values()))
    header = ("method", "settings", "performance, %", "seeds", *domains, "merge s", "merge MiB")
    unmerged = [_unmerged_line(row, board, domains) for row in board.references]
    merges = [_entry_line(e, board, domains) for e in entries_of(board.merges)]
    return Table(header, (*unmerged, *merges))


def unscored_table(boards: Sequence[Board]) -> Table | None:
    """List every run that failed, was refused or lacks a task; None if there is none."""
    rows = tuple(
        (
            board.pool,
            row.name,
            row.settings,
            row.status if row.record.error else _lacking(board, row),
        )
        for board in boards
        for row in board.rows
        if board.tasks and row.mean is None
    )
    header = ("models", "run", "settings", "what happened")
    return Table(header, rows) if rows else None


def test_table(name: str, tests: Sequence[Test]) -> Table | None:
    """List tests, folded where they are many; None without any."""
    rows = tuple(map(_test_line, tests))
    folded = name if len(rows) > MOST_OPEN else ""
    return Table(_TEST_HEADER, rows, folded=folded) if rows else None


def name_of(row: Row, board: Board) -> str:
    """Name a row by its method, the settings that differ on the board, and the seed."""
    for entry in entries_of(board.merges):
        if row in entry.rows:
            seed = f" seed={row.record.seed}" if len(entry.rows) > 1 else ""
            return f"{entry.label}{seed}"
    return row.name


def points(value: float) -> str:
    """Format a difference of scores in points, with its sign."""
    return f"{100 * value:+.2f}".replace("-0.00", "+0.00")


def percent(value: float) -> str:
    """Format a share or a score in per cent."""
    return f"{100 * value:.2f}"


def with_error(estimate: Estimate, show: Callable[[float], str]) -> str:
    """Format a number and one standard error of it."""
    return f"{show(estimate.value)} ± {100 * estimate.stderr:.2f}"


def chance(p: float) -> str:
    """Format a p-value with two significant digits below 0.1."""
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _test_line(test: Test) -> tuple[str, ...]:
    result, board = test.result, test.ground.board
    word = "ahead" if result.difference.value > 0 else "behind"
    return (
        board.pool,
        name_of(test.first, board),
        name_of(test.second, board),
        with_error(result.difference, points),
        f"{points(result.low)} to {points(result.high)}",
        chance(result.p_value),
        chance(result.p_holm),
        f"significantly {word}" if result.differs else "not told apart",
    )


def _unmerged_line(row: Row, board: Board, domains: Sequence[str]) -> tuple[str, ...]:
    mean = row.absent if row.mean is None else with_error(row.mean, percent)
    domain_scores = {} if row.mean is None else domain_means(row.record.scores, board.domains)
    scores = (
        f"{100 * domain_scores[d].value:.1f}" if d in domain_scores else row.absent
        for d in domains
    )
    return (row.name, "unmerged", mean, "", *scores, "", "")


def _entry_line(entry: Entry, board: Board, domains: Sequence[str]) -> tuple[str, ...]:
    values = entry.domain_values(board.domains) if board.domains else {}
    mean, spread = entry.mean, entry.seed_spread
    n = len(entry.scored)
    mark = f" {MARK}" if any(row.tuned_on_test for row in entry.rows) else ""
    return (
        title(entry.method),
        f"{entry.settings}{mark}".strip(),
        "incomplete" if mean is None else with_error(mean, percent),
        "" if n == 0 else f"{n}" if spread is None else f"{n}, s.d. {100 * spread:.2f}",
        *(f"{100 * values[d]:.1f}" if d in values else "" for d in domains),
        "" if entry.seconds is None else f"{entry.seconds:.2f}",
        "" if entry.peak_bytes is None else f"{entry.peak_bytes / MIB:.0f}",
    )


def _lacking(board: Board, row: Row) -> str:
    missing = [task for task in board.tasks if task not in row.record.scores]
    return f"no score of {', '.join(missing)}"


_DEVIATIONS = Path(__file__).with_name("deviations.md")
_ALL_METHODS = "all"


def models_table(boards: Sequence[Board]) -> Table:
    """List every model by pool and part, with the hash of its weights."""
    lines = {
        (board.pool, part, model.name, model.location, model.version, model.content_hash)
        for board in boards
        for row in board.merges
        for part, model in _parts(row.record.models)
    }
    header = ("pool", "part", "model", "location", "revision", "content")
    return Table(header, tuple(sorted(lines)))


def suites(boards: Sequence[Board]) -> list[str]:
    """List every suite with its split, its tasks and how many documents they have."""
    lines = {
        f"Suite {board.suite}, split {board.split}, fingerprint {board.fingerprint}: "
        f"{_tasks(board)}."
        for board in boards
        if board.tasks
    }
    return sorted(lines)


def environment_table(records: Iterable[Record]) -> Table:
    """Facts of the records' provenance; where runs differ, each value with its run count."""
    facts: dict[str, Counter[str]] = {}
    for record in records:
        machine = {k: v for k, v in record.provenance.items() if k != "identity"}
        for fact, value in _flat("", machine):
            facts.setdefault(fact, Counter())[value] += 1
    rows = tuple((fact, _values(found)) for fact, found in sorted(facts.items()))
    return Table(("fact", "value"), rows)


def seeds(records: Iterable[Record]) -> str:
    """List the seeds of the merges."""
    distinct = sorted({record.seed for record in records if record.kind == "merge"})
    return ", ".join(map(str, distinct)) or "none"


def deviations(methods: Iterable[str]) -> Table:
    """Select the rows of ``deviations.md`` for these methods.

    Args:
        methods: Titles of methods, such as ``SeMe``.
    """
    header, _, *rows = map(_cells, _DEVIATIONS.read_text(encoding="utf-8").splitlines())
    wanted = {_ALL_METHODS, *methods}
    kept = tuple(row for row in rows if wanted & set(row[0].split(", ")))
    return Table(header, kept)


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip().replace("`", "") for cell in line.strip("|").split("|"))


def _parts(models: PoolRef) -> list[tuple[str, ModelRef]]:
    parts = [("pivot", models.pivot)]
    parts += [(f"source {i}", model) for i, model in enumerate(models.sources, start=1)]
    return parts + [("unmerged", model) for model in models.references]


def _tasks(board: Board) -> str:
    sizes = {}
    for task in board.tasks:
        counts = {r.record.scores[task].n for r in board.rows if task in r.record.scores}
        sizes[task] = " or ".join(map(str, sorted(counts))) or "none"
    return ", ".join(f"{t} ({board.domains[t]}, n = {sizes[t]})" for t in board.tasks)


def _values(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({n} runs)" for value, n in sorted(counts.items()))


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:  # noqa: ANN401 (any JSON)
    """Leaves of nested mappings with their dotted paths, as texts."""
    if isinstance(value, Mapping):
        return [line for key in value for line in _flat(f"{prefix}.{key}", value[key])]
    text = value if isinstance(value, str) else json.dumps(value)
    return [(prefix.removeprefix("."), text)]
