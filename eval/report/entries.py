"""The lines of a report's table: a method at one setting, with all its seeds."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.leaderboard.board import Board, Row
from eval.statistics.comparability import best_setting
from eval.statistics.scores import Estimate, domain_means

VALIDATION = "validation"
SEME = "seme"
RIVALS = ("average", "task_arithmetic", "ties", "dare")
"""The methods the paper compares with, in the order of its claims."""
_TITLES = {
    SEME: "SeMe",
    "average": "averaging",
    "task_arithmetic": "task arithmetic",
    "ties": "TIES",
    "dare": "DARE",
    "dare_ties": "DARE + TIES",
    "sce": "SCE",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A method at one setting on one board."""

    method: str
    settings: str
    """Those in which the method's rows on the board differ, without the seed."""
    rows: tuple[Row, ...]
    """One per seed, by rising seed."""

    @property
    def label(self) -> str:
        return f"{title(self.method)} {self.settings}".rstrip()

    @property
    def scored(self) -> tuple[Row, ...]:
        """Rows with a score of every task."""
        return tuple(row for row in self.rows if row.mean is not None)

    @property
    def mean(self) -> Estimate | None:
        """Mean over seeds; the error is one over documents, which all seeds share."""
        found = [row.mean for row in self.scored if row.mean is not None]
        if not found:
            return None
        return Estimate(
            value=math.fsum(m.value for m in found) / len(found),
            stderr=math.fsum(m.stderr for m in found) / len(found),
        )

    @property
    def seed_spread(self) -> float | None:
        """Standard deviation of the mean over seeds; None with fewer than two."""
        found = [row.mean.value for row in self.scored if row.mean is not None]
        return statistics.stdev(found) if len(found) > 1 else None

    def domain_values(self, domains: Mapping[str, str]) -> dict[str, float]:
        """Domain to mean score over its tasks, then over seeds; empty without scores."""
        found = [domain_means(row.record.scores, domains) for row in self.scored]
        if not found:
            return {}
        return {d: statistics.fmean(m[d].value for m in found) for d in found[0]}

    @property
    def seconds(self) -> float | None:
        """Median time of the merge."""
        found = [r.merge_seconds for r in self.rows if r.merge_seconds is not None]
        return statistics.median(found) if found else None

    @property
    def peak_bytes(self) -> float | None:
        """Median peak memory of the merge above where it started."""
        found = [r.merge_bytes for r in self.rows if r.merge_bytes is not None]
        return statistics.median(found) if found else None


def title(method: str) -> str:
    """The method's name in prose."""
    return _TITLES.get(method, method)


def entries_of(rows: Iterable[Row]) -> list[Entry]:
    """Group rows by method and setting: the paper's methods in its order, then others by name.

    Args:
        rows: Merges of one board; those that are not done are passed over.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.record.status == "done":
            groups.setdefault((row.name, _without_seed(row.settings)), []).append(row)
    order = [SEME, *RIVALS]

    def place(key: tuple[str, str]) -> tuple[int, str, list[tuple[str, Any]]]:
        record = groups[key][0].record
        rank = order.index(key[0]) if key[0] in order else len(order)
        return rank, key[0], _sortable(record.settings)

    return [
        Entry(
            method=key[0],
            settings=_without_seed(groups[key][0].own_settings),
            rows=tuple(sorted(groups[key], key=lambda row: row.record.seed)),
        )
        for key in sorted(groups, key=place)
    ]


def is_validation(board: Board) -> bool:
    """Whether settings are chosen on this board; the others are reported."""
    return board.split == VALIDATION


def chosen_settings(
    board: Board, boards: Sequence[Board], method: str
) -> list[Mapping[str, Any]]:
    """What the validation runs of the same models and tasks choose for a method.

    Returns:
        One setting per validation board on which the method has a complete run: more than one
        only if the validation split was read in several ways, such as with another limit.
    """
    found: list[Mapping[str, Any]] = []
    for other in boards:
        if is_validation(other) and _cell(other) == _cell(board):
            tried = [row.record for row in other.merges if row.mean is not None]
            if any(record.name == method for record in tried):
                found.append(best_setting(tried, method=method))
    return found


def candidates(board: Board, boards: Sequence[Board], method: str) -> list[Row]:
    """The scored rows that speak for a method: its chosen setting, or all if none was chosen."""
    rows = [row for row in board.merges if row.name == method and row.mean is not None]
    chosen = chosen_settings(board, boards, method)
    return [row for row in rows if not chosen or row.record.settings in chosen]


def _cell(board: Board) -> tuple[str, tuple[tuple[str, str], ...]]:
    return board.models, tuple(sorted(board.domains.items()))


def _without_seed(settings: str) -> str:
    return " ".join(s for s in settings.split(" ") if not s.startswith("seed="))


def _sortable(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Settings in an order: by name, numbers before texts."""
    return [
        (
            name,
            (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value)),
        )
        for name, value in sorted(settings.items())
    ]
