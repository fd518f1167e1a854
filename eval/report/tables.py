"""Tables of a report: scores and costs, tests, runs without a score, models, environment."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from eval.leaderboard.board import MARK, Board, Row
from eval.records import ModelRef, PoolRef, Record
from eval.report.evidence import Entry, PairedTest, entries_of, title
from eval.report.render import Table
from eval.statistics.scores import domain_means
from eval.tables import leaves, mib, percent, points, seconds, with_error

MOST_OPEN = 12
"""Tables of evidence with more rows are folded."""
MACHINE_FACTS = ("cpu", "cores", "threads", "platform", "devices")
"""Facts of a provenance that must agree for times to be comparable."""
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


def test_table(name: str, tests: Sequence[PairedTest]) -> Table | None:
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


def chance(p: float) -> str:
    """Format a p-value with two significant digits below 0.1."""
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _test_line(test: PairedTest) -> tuple[str, ...]:
    result, board = test.result, test.board
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
    mean, *scores = score_cells(row, board, domains)
    return (row.name, "unmerged", mean, "", *scores, "", "")


def score_cells(row: Row, board: Board, domains: Sequence[str]) -> tuple[str, ...]:
    """Mean score of a row, then its score on each domain, in per cent; or why there is none."""
    mean = row.absent if row.mean is None else with_error(row.mean)
    domain_scores = (
        {} if row.mean is None else domain_means(row.record.scores, board.domains, board.groups)
    )
    scores = (
        percent(domain_scores[d].value, 1) if d in domain_scores else row.absent
        for d in domains
    )
    return (mean, *scores)


def _entry_line(entry: Entry, board: Board, domains: Sequence[str]) -> tuple[str, ...]:
    values = entry.domain_values(board) if board.domains else {}
    mean, spread = entry.mean, entry.seed_spread
    n = len(entry.scored)
    mark = f" {MARK}" if any(row.tuned_on_test for row in entry.rows) else ""
    return (
        title(entry.method),
        f"{entry.settings}{mark}".strip(),
        "incomplete" if mean is None else with_error(mean),
        "" if n == 0 else f"{n}" if spread is None else f"{n}, s.d. {percent(spread)}",
        *(percent(values[d], 1) if d in values else "" for d in domains),
        seconds(entry.seconds),
        mib(entry.peak_bytes),
    )


def _lacking(board: Board, row: Row) -> str:
    missing = [task for task in board.tasks if task not in row.record.scores]
    return f"no score of {', '.join(missing)}"


_DEVIATIONS = Path(__file__).with_name("deviations.md")
_ALL_METHODS = "all"


def models_table(boards: Sequence[Board]) -> Table:
    """List every model by pool and part, with the hash of its weights."""
    lines = {
        (board.pool, part, i, model.name, model.location, model.version, model.content_hash)
        for board in boards
        for row in board.merges
        for i, (part, model) in enumerate(_parts(row.record.models))
    }
    header = ("pool", "part", "model", "location", "revision", "content")
    return Table(header, tuple((*line[:2], *line[3:]) for line in sorted(lines)))


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
        for fact, leaf in leaves(machine):
            value = leaf if isinstance(leaf, str) else json.dumps(leaf)
            facts.setdefault(fact, Counter())[value] += 1
    rows = tuple((fact, _values(counts)) for fact, counts in sorted(facts.items()))
    return Table(("fact", "value"), rows)


def machine_of(provenance: Mapping[str, object]) -> str:
    """Machine of a run: the facts that must agree for times to be comparable, as one text."""
    return "; ".join(f"{fact} {provenance.get(fact)}" for fact in MACHINE_FACTS)


def machine_names(machines: Iterable[str]) -> dict[str, str]:
    """Name machines by processor and cores, or by all their facts where those are ambiguous."""
    short = {machine: ", ".join(machine.split("; ")[:2]) for machine in machines}
    names = list(short.values())
    return {m: name if names.count(name) == 1 else m for m, name in short.items()}


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
    parts += [("source", model) for model in models.sources]
    return parts + [("unmerged", model) for model in models.references]


def _tasks(board: Board) -> str:
    return ", ".join(
        f"{task} ({board.domains[task]}, n = {board.n_documents(task)})" for task in board.tasks
    )


def _values(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({n} runs)" for value, n in sorted(counts.items()))
