"""Many methods on one board: ranks, bands that paired tests keep apart, and two pools side by side."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from eval.leaderboard.board import MARK, Board, Row
from eval.leaderboard.measures import Measured, Standing, measures_of, standings_of
from eval.leaderboard.settings import settings_text
from eval.report.evidence import is_validation, title
from eval.report.questions import Answer
from eval.report.render import Table
from eval.report.tables import score_cells
from eval.tables import mib, percent, seconds, with_error

MANY = 10
"""Methods from which on a board's merges are listed by rank, with their bands."""
_BANDS = (
    "Merges share a band unless paired permutation tests over the same documents tell them from "
    "the band's first (5 %, step-down maxT over all pairs of the board); one seed each."
)


def has_many_methods(board: Board) -> bool:
    """True for a board of at least ``MANY`` methods."""
    return len({row.name for row in board.merges}) >= MANY


def ranked_table(board: Board, boards: Sequence[Board]) -> Table:
    """List unmerged models, then merges by rank: band, settings, scores, costs.

    Args:
        board: The board to list.
        boards: All boards of the results folder; a method's settings are those in which its
            runs differ, on any of them.
    """
    standings, measures = standings_of([board]), measures_of([board])
    domains = tuple(dict.fromkeys(board.domains.values()))
    start = ("rank", "band", "method", "settings", "performance, %", "of gap, %")
    header = (*start, *domains, "merge s", "merge MiB")
    rows: list[tuple[str, ...]] = [
        ("", "", row.name, "unmerged", mean, "", *scores, "", "")
        for row in board.references
        for mean, *scores in [score_cells(row, board, domains)]
    ]
    for row in board.merges:
        mean, *scores = score_cells(row, board, domains)
        place = (_rank(row), _band(row, standings), title(row.name), _tried(row, boards))
        costs = (seconds(row.merge_seconds), mib(row.merge_bytes))
        rows.append((*place, mean, _gap(row, measures), *scores, *costs))
    return Table(header, tuple(rows))


def bands(boards: Sequence[Board]) -> Answer | None:
    """List the methods of every band; None without a board of many methods, each at one setting."""
    wide = [board for board in boards if _is_comparison(board)]
    lines = [line for board in wide for line in _band_lines(board)]
    if not lines:
        return None
    firsts = [f"{pool}: {methods}" for pool, band, methods, *_ in lines if band == "1"]
    header = ("models", "band", "methods, best first", "performance, %", "merge s", "merge MiB")
    return Answer(
        question="Which methods are told apart?",
        how=_BANDS,
        finding=f"In the first band are, on {'; on '.join(firsts)}.",
        tables=(Table(header, tuple(lines)),),
    )


def on_both_pools(boards: Sequence[Board], beside: Sequence[Board]) -> Answer | None:
    """Set the ranks of two pools side by side; None unless both have a board of many methods."""
    pair = [
        next((b for b in of if _is_comparison(b) and not is_validation(b)), None)
        for of in (boards, beside)
    ]
    here, there = pair
    if here is None or there is None:
        return None
    cells = [_pool_cells(board) for board in (here, there)]
    shared = [name for name in cells[0] if name in cells[1]]
    rows = tuple((title(name), *cells[0][name], *cells[1][name]) for name in shared)
    both = [row[0] for row in rows if row[2] == row[6] == "1"]
    columns = ("rank", "band", "performance, %", "of gap, %")
    header = ("method", *(f"{board.pool}: {c}" for board in (here, there) for c in columns))
    return Answer(
        question="Do the pools agree?",
        how=f"The same methods on both, each at the setting its own validation split chose. {_BANDS}",
        finding=f"In the first band of both: {', '.join(both) or 'none'}.",
        tables=(Table(header, rows),),
    )


def _is_comparison(board: Board) -> bool:
    """True if many methods are on the board, with one run each."""
    names = [row.name for row in board.merges]
    return has_many_methods(board) and len(set(names)) == len(names)


def _band_lines(board: Board) -> list[tuple[str, ...]]:
    standings = standings_of([board])
    rows = [row for row in board.merges if row.record.fingerprint in standings]
    rows.sort(key=lambda row: standings[row.record.fingerprint].band)
    lines: list[tuple[str, ...]] = []
    for band, group in groupby(rows, key=lambda row: _band(row, standings)):
        of_band = list(group)
        names = ", ".join(title(row.name) for row in of_band)
        means = _range([percent(row.mean.value) for row in of_band if row.mean is not None])
        times = _range([seconds(t) for row in of_band if (t := row.merge_seconds) is not None])
        sizes = _range([mib(n) for row in of_band if (n := row.merge_bytes) is not None])
        lines.append((board.pool, band, names, means, times, sizes))
    return lines


def _range(numbers: Sequence[str]) -> str:
    """Least and largest of formatted numbers; one number where they are equal."""
    ordered = sorted(numbers, key=float)
    return " to ".join(dict.fromkeys([*ordered[:1], *ordered[-1:]]))


def _pool_cells(board: Board) -> dict[str, tuple[str, str, str, str]]:
    """Method to its rank, band, mean and share of the gap, best first."""
    standings, measures = standings_of([board]), measures_of([board])
    return {
        row.name: (
            _rank(row),
            _band(row, standings),
            with_error(row.mean),
            _gap(row, measures),
        )
        for row in board.merges
    }


def _tried(row: Row, boards: Sequence[Board]) -> str:
    """Settings of a row in which the runs of its method differ, marked if tuned on test."""
    runs = [r.record.settings for b in boards for r in b.merges if r.name == row.name]
    varied = {
        key: value
        for key, value in row.record.settings.items()
        if any(run.get(key) != value for run in runs)
    }
    return f"{settings_text(varied)}{f' {MARK}' if row.tuned_on_test else ''}".strip()


def _rank(row: Row) -> str:
    return "" if row.rank is None else str(row.rank)


def _band(row: Row, standings: Mapping[str, Standing]) -> str:
    standing = standings.get(row.record.fingerprint)
    return "" if standing is None else str(standing.band)


def _gap(row: Row, measures: Mapping[str, Measured]) -> str:
    return with_error(measures.get(row.record.fingerprint, {}).get("of_gap"), digits=1)
