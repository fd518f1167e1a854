"""Entries of a board (a method at one setting), and paired tests over several boards."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from eval.leaderboard.board import Board, Row
from eval.statistics.comparability import best_setting, chooses_for
from eval.statistics.compare import (
    CLOSE_RESAMPLES,
    Comparison,
    CorrectedComparison,
    compare,
    correct,
    is_close,
    resamples_for,
)
from eval.statistics.resampling import SEED, sign_flip_p_values
from eval.statistics.samples import Panel, match
from eval.statistics.scores import Estimate, domain_means

Pair = tuple[Board, Row, Row]
"""A board, and two of its rows to compare."""
Key = TypeVar("Key")

VALIDATION = "validation"
SEME = "seme"
RIVALS = ("average", "task_arithmetic", "ties", "dare")
"""The methods the paper compares with, in the order of its claims."""
_TITLES = {
    SEME: "SeMe",
    "seme_directions": "SeMe, directions",
    "average": "averaging",
    "task_arithmetic": "task arithmetic",
    "ties": "TIES",
    "dare": "DARE",
    "dare_ties": "DARE + TIES",
    "sce": "SCE",
    "tsv_m": "TSV-M",
    "iso_c": "Iso-C",
    "iso_cts": "Iso-CTS",
    "wudi": "WUDI",
    "swudi": "SWUDI",
    "ace": "ACE",
    "knots": "KnOTS",
    "slerp": "SLERP",
    "multislerp": "Multi-SLERP",
    "karcher": "Karcher mean",
    "model_stock": "Model Stock",
    "breadcrumbs": "Breadcrumbs",
    "della": "DELLA",
    "consensus": "Consensus",
    "metagpt": "MetaGPT",
    "nan_weights": "NAN",
    "ram": "RAM",
    "mwa": "MWA",
    "localize": "Localize-and-Stitch",
    "layer_swap": "Layer swapping",
    "cabs": "CABS",
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
        means = [row.mean for row in self.scored if row.mean is not None]
        if not means:
            return None
        return Estimate(
            value=math.fsum(m.value for m in means) / len(means),
            stderr=math.fsum(m.stderr for m in means) / len(means),
        )

    @property
    def seed_spread(self) -> float | None:
        """Standard deviation of the mean over seeds; None with fewer than two."""
        means = [row.mean.value for row in self.scored if row.mean is not None]
        return statistics.stdev(means) if len(means) > 1 else None

    def domain_values(self, board: Board) -> dict[str, float]:
        """Domain to mean score over its tasks, then over seeds; empty without scores."""
        by_seed = [
            domain_means(row.record.scores, board.domains, board.groups) for row in self.scored
        ]
        if not by_seed:
            return {}
        return {d: statistics.fmean(m[d].value for m in by_seed) for d in by_seed[0]}

    @property
    def seconds(self) -> float | None:
        """Median time of the merge."""
        measured = [r.merge_seconds for r in self.rows if r.merge_seconds is not None]
        return statistics.median(measured) if measured else None

    @property
    def peak_bytes(self) -> float | None:
        """Median peak memory of the merge above where it started."""
        measured = [r.merge_bytes for r in self.rows if r.merge_bytes is not None]
        return statistics.median(measured) if measured else None


def title(method: str) -> str:
    """Name of the method in prose."""
    return _TITLES.get(method, method)


def entries_of(rows: Iterable[Row]) -> list[Entry]:
    """Group rows by method and setting: methods of the paper in its order, then others by name.

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
    """True for a board of validation runs, which choose settings and are not reported."""
    return board.split == VALIDATION


def chosen_settings(
    board: Board, boards: Sequence[Board], method: str
) -> list[Mapping[str, Any]]:
    """Choose the best setting of a method on the validation runs of the same models and tasks.

    Tasks of held-out domains need not be among those of the validation runs.

    Returns:
        One setting per validation board on which the method has a complete run: more than one
        only if the validation split was read in several ways, such as with another limit.
    """
    chosen: list[Mapping[str, Any]] = []
    for other in boards:
        if is_validation(other) and _chooses_for(other, board):
            tried = [row.record for row in other.merges if row.mean is not None]
            if any(record.name == method for record in tried):
                chosen.append(best_setting(tried, method=method))
    return chosen


def candidates(board: Board, boards: Sequence[Board], method: str) -> list[Row]:
    """Scored rows of a method at its chosen setting, or all if none was chosen."""
    rows = [row for row in board.merges if row.name == method and row.mean is not None]
    chosen = chosen_settings(board, boards, method)
    return [row for row in rows if not chosen or row.record.settings in chosen]


def mean_of(row: Row) -> float:
    """Mean score of a row that has one."""
    assert row.mean is not None
    return row.mean.value


def _chooses_for(validation: Board, board: Board) -> bool:
    same_models = validation.models == board.models
    return same_models and chooses_for(validation.domains, board.domains, board.held_out)


def _without_seed(settings: str) -> str:
    return " ".join(s for s in settings.split(" ") if not s.startswith("seed="))


def _sortable(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Sort key of settings: by name, numbers before texts."""
    return [
        (
            name,
            (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value)),
        )
        for name, value in sorted(settings.items())
    ]


def pivot_row(board: Board) -> Row | None:
    """Row of the unmerged pivot, if it was scored."""
    return _unmerged(board, board.merges[0].record.models.pivot.content_hash)


def source_rows(board: Board) -> list[Row]:
    """Rows of the unmerged sources that were scored, in order."""
    hashes = [model.content_hash for model in board.merges[0].record.models.sources]
    return [row for content in hashes if (row := _unmerged(board, content)) is not None]


def has_samples(*rows: Row) -> bool:
    """True if every one of these rows has all scores and their samples."""
    return all(row.mean is not None and row.run.samples is not None for row in rows)


def panel_of_rows(rows: Sequence[Row]) -> Panel:
    """Runs of these rows, matched by document and labelled by fingerprint.

    Raises:
        ValueError: If they were scored on different documents; names runs and task.
    """
    return match({row.record.fingerprint: row.run for row in rows})


def _unmerged(board: Board, content: str) -> Row | None:
    """Row of the scored reference with this content hash."""
    for row in board.references:
        if row.record.models.pivot.content_hash == content and row.mean is not None:
            return row
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """Paired test between two rows of one board."""

    board: Board
    first: Row
    second: Row
    result: CorrectedComparison
    """Difference, first minus second."""


def tests_of(
    asked: Sequence[Pair],
    *,
    domains: Mapping[str, str] | None = None,  # noqa: PT028 (no test of pytest's)
) -> list[PairedTest]:
    """Test all these pairs as one family.

    Each is a two-sided paired permutation test over the documents of its board; Holm's
    correction is over all of them together, whatever their boards.

    Args:
        asked: Pairs of rows with samples.
        domains: Domain by the key of a board: compare on its tasks alone.

    Returns:
        One test each, in the order given.

    Raises:
        ValueError: If the runs of a board cannot be compared; names them.
    """
    n_resamples = resamples_for(len(asked))
    comparisons: dict[int, Comparison] = {}
    panels: list[tuple[Panel, dict[int, tuple[str, str]]]] = []
    for board in {id(board): board for board, _, _ in asked}.values():
        on_board = {i: (a, b) for i, (of, a, b) in enumerate(asked) if of is board}
        panel = panel_of_rows([row for pair in on_board.values() for row in pair])
        panel = panel if domains is None else panel.on(domains[board.key])
        pairs = {
            i: (a.record.fingerprint, b.record.fingerprint) for i, (a, b) in on_board.items()
        }
        results = compare(panel, list(pairs.values()), n_resamples=n_resamples, seed=SEED)
        comparisons |= dict(zip(on_board, results, strict=True))
        panels.append((panel, pairs))
    corrected = _corrected(comparisons, panels, n_resamples)
    return [
        PairedTest(board=board, first=a, second=b, result=result)
        for (board, a, b), result in zip(asked, corrected, strict=True)
    ]


def _corrected(
    comparisons: dict[int, Comparison],
    panels: Sequence[tuple[Panel, Mapping[int, tuple[str, str]]]],
    n_resamples: int,
) -> list[CorrectedComparison]:
    """Correct a family; verdicts that hang on the draw are drawn again, with more sign patterns."""
    drawn_again: set[int] = set()
    while True:
        corrected = correct([comparisons[i] for i in range(len(comparisons))])
        close = {
            i
            for i, result in enumerate(corrected)
            if is_close(result.p_value, result.p_holm, n_resamples)
        } - drawn_again
        if not close or n_resamples >= CLOSE_RESAMPLES:
            return corrected
        for panel, pairs in panels:
            again = [i for i in pairs if i in close]
            p_values = sign_flip_p_values(
                panel, [pairs[i] for i in again], n_resamples=CLOSE_RESAMPLES, seed=SEED
            )
            for i, p_value in zip(again, p_values, strict=True):
                comparisons[i] = replace(comparisons[i], p_value=p_value)
        drawn_again |= close


def grouped_tests(groups: Mapping[Key, Sequence[Pair]]) -> dict[Key, list[PairedTest]]:
    """Test the pairs of all groups as one family; see ``tests_of``."""
    tests = iter(tests_of([pair for pairs in groups.values() for pair in pairs]))
    return {key: [next(tests) for _ in pairs] for key, pairs in groups.items()}
