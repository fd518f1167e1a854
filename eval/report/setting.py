"""What an experiment's records were made of: models, suites, seeds, code and machines."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.leaderboard.board import Board
from eval.records import ModelRef, PoolRef, Record
from eval.report.document import Items, Table

_DEVIATIONS = Path(__file__).with_name("deviations.md")
_ALL_METHODS = "all"


def models_table(boards: Sequence[Board]) -> Table:
    """Every model by pool and part, with the hash of its weights."""
    lines = {
        (board.pool, part, model.name, model.location, model.version, model.content_hash)
        for board in boards
        for row in board.merges
        for part, model in _parts(row.record.models)
    }
    header = ("pool", "part", "model", "location", "revision", "content")
    return Table(header, tuple(sorted(lines)), name="models")


def suites(boards: Sequence[Board]) -> Items:
    """Every suite with its split, its tasks and how many documents they have."""
    lines = {
        f"Suite {board.suite}, split {board.split}, fingerprint {board.fingerprint}: "
        f"{_tasks(board)}."
        for board in boards
        if board.tasks
    }
    return Items(tuple(sorted(lines)))


def environment_table(records: Iterable[Record]) -> Table:
    """Every fact of the records' provenance; where they differ, each value with its runs."""
    facts: dict[str, Counter[str]] = {}
    for record in records:
        machine = {k: v for k, v in record.provenance.items() if k != "identity"}
        for fact, value in _flat("", machine):
            facts.setdefault(fact, Counter())[value] += 1
    rows = tuple((fact, _values(found)) for fact, found in sorted(facts.items()))
    return Table(("fact", "value"), rows, name="environment")


def seeds(records: Iterable[Record]) -> str:
    """The seeds of the merges."""
    found = sorted({record.seed for record in records if record.kind == "merge"})
    return ", ".join(map(str, found)) or "none"


def deviations(methods: Iterable[str]) -> Table:
    """Where these methods are not as in their papers; ``deviations.md`` is the one home.

    Args:
        methods: Titles of methods, such as ``SeMe``.
    """
    header, _, *rows = map(_cells, _DEVIATIONS.read_text(encoding="utf-8").splitlines())
    wanted = {_ALL_METHODS, *methods}
    kept = tuple(row for row in rows if wanted & set(row[0].split(", ")))
    return Table(header, kept, name="deviations")


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip().replace("`", "") for cell in line.strip("|").split("|"))


def _parts(models: PoolRef) -> list[tuple[str, ModelRef]]:
    found = [("pivot", models.pivot)]
    found += [(f"source {i}", model) for i, model in enumerate(models.sources, start=1)]
    return found + [("unmerged", model) for model in models.references]


def _tasks(board: Board) -> str:
    sizes = {}
    for task in board.tasks:
        found = {r.record.scores[task].n for r in board.rows if task in r.record.scores}
        sizes[task] = " or ".join(map(str, sorted(found))) or "none"
    return ", ".join(f"{t} ({board.domains[t]}, n = {sizes[t]})" for t in board.tasks)


def _values(found: Counter[str]) -> str:
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{value} ({n} runs)" for value, n in sorted(found.items()))


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:  # noqa: ANN401 (any JSON)
    """Leaves of nested mappings with their dotted paths, as texts."""
    if isinstance(value, Mapping):
        return [line for key in value for line in _flat(f"{prefix}.{key}", value[key])]
    shown = value if isinstance(value, str) else json.dumps(value)
    return [(prefix.removeprefix("."), shown)]
