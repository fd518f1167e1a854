"""Share of the gap to the experts per method against the number of sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from eval.leaderboard.board import Board
from eval.leaderboard.drawing import add_legend, draw, points, printable, series_styles
from eval.leaderboard.measures import roles_of
from eval.report.evidence import (
    Entry,
    entries_of,
    has_samples,
    panel_of_rows,
    pivot_row,
    source_rows,
)
from eval.report.questions import Answer
from eval.report.render import Drawing, Table
from eval.statistics.compare import LEVEL
from eval.statistics.metrics import Roles, gap_closed
from eval.statistics.resampling import RESAMPLES, SEED, bootstrap
from eval.statistics.samples import Array, ScoreTable, mean_of
from eval.statistics.scores import Estimate
from eval.tables import percent, with_error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """One method's share with so many sources."""

    n_sources: int
    share: float
    resampled: Array
    """Shape (n_resamples,): the same documents are drawn whatever the number of sources."""

    @property
    def estimate(self) -> Estimate:
        return Estimate(value=self.share, stderr=float(self.resampled.std(ddof=1)))


def share_by_sources(boards: Sequence[Board], name: str) -> tuple[Answer, Drawing] | None:
    """Measure how the share of the gap changes with the number of sources.

    Args:
        boards: Boards; used are those of one pivot with several numbers of sources.
        name: Prefix of the figure's file name.

    Returns:
        The answer and its figure; None where no pivot was merged with several numbers of
        sources on one suite.

    Raises:
        ValueError: If the experts are together no better than the pivot, so that there is no
            gap to close.
    """
    lines: dict[str, list[_Point]] = {}
    families = _families(boards)
    for family in families:
        pivot = family[0].merges[0].record.models.pivot
        suffix = f" into {pivot.name}" if len(families) > 1 else ""
        for board in family:
            for label, point in _points(board).items():
                lines.setdefault(f"{label}{suffix}", []).append(point)
    lines = {label: line for label, line in lines.items() if len(line) > 1}
    if not lines:
        return None
    answer = Answer(
        question="How does each method's share of the gap change with the number of sources?",
        how="Share of the gap between the pivot and the experts, each on its own domain, that "
        "the merge closes (sum of gains over sum of gaps); a source is the expert of the "
        "domain of its name, or else of the one on which it gains most over the pivot. The "
        "change from the fewest to the most sources is found if its 95 % bootstrap interval "
        "excludes zero; intervals are not corrected for being several.",
        finding=" ".join(f"{label}: {_change(line)}." for label, line in lines.items()),
        tables=(_table(lines),),
    )
    return answer, _drawing(name, lines)


def _families(boards: Sequence[Board]) -> list[list[Board]]:
    """Boards of one pivot and suite with several numbers of sources, by rising number."""
    families: dict[tuple[str, str | None], dict[int, Board]] = {}
    for board in boards:
        models = board.merges[0].record.models
        n = len(models.sources)
        pivot, sources = pivot_row(board), source_rows(board)
        if pivot is not None and len(sources) >= n and has_samples(pivot, *sources):
            key = (models.pivot.content_hash, board.fingerprint)
            families.setdefault(key, {}).setdefault(n, board)
    return [[of[n] for n in sorted(of)] for of in families.values() if len(of) > 1]


def _points(board: Board) -> dict[str, _Point]:
    """Label to share for every entry of a board; empty where not every source is an expert."""
    sampled = [row.record.fingerprint for row in board.rows if has_samples(row)]
    roles, pivot, sources = roles_of(board, sampled), pivot_row(board), source_rows(board)
    entries = [e for e in entries_of(board.merges) if e.scored and has_samples(*e.scored)]
    if roles is None or len(roles.experts) < len(sources) or pivot is None:
        return {}
    merges = [row for entry in entries for row in entry.scored]
    panel = panel_of_rows([pivot, *sources, *merges])
    resampled = bootstrap(panel, n_resamples=RESAMPLES, seed=SEED)
    return {
        entry.label: _Point(
            n_sources=len(roles.experts),
            share=float(_share(panel.observed(), entry, roles)),
            resampled=_share(resampled, entry, roles),
        )
        for entry in entries
    }


def _share(table: ScoreTable, entry: Entry, roles: Roles) -> Array:
    """Share of the gap, averaged over seeds."""
    share = partial(gap_closed, roles=roles)
    return mean_of([share(table, row.record.fingerprint) for row in entry.scored])


def _change(line: Sequence[_Point]) -> str:
    first, last = line[0], line[-1]
    low, high = np.quantile(last.resampled - first.resampled, [LEVEL / 2, 1 - LEVEL / 2])
    word = "rises" if low > 0 else "falls" if high < 0 else "no change found"
    return (
        f"{word}, {percent(first.share)} % with {first.n_sources}, "
        f"{percent(last.share)} % with {last.n_sources}"
    )


def _table(lines: Mapping[str, Sequence[_Point]]) -> Table:
    counts = sorted({point.n_sources for line in lines.values() for point in line})
    rows = []
    for label, line in lines.items():
        shares = {point.n_sources: with_error(point.estimate) for point in line}
        rows.append((label, *(shares.get(n, "") for n in counts), _change(line)))
    header = ("method", *(f"{n} sources, %" for n in counts), "change")
    return Table(header, tuple(rows))


def _drawing(name: str, lines: Mapping[str, Sequence[_Point]]) -> Drawing:
    labels = {label: printable(label, 50) for label in lines}
    styles = series_styles(labels.values())

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="sources", ylabel="share of the gap, %")
        for label, line in lines.items():
            style, xs = styles[labels[label]], [point.n_sources for point in line]
            ys = [100 * point.share for point in line]
            points(axes, xs, ys, [100 * point.estimate.stderr for point in line], style)
            axes.plot(xs, ys, color=style.colour, lw=1.2)
        axes.set_xticks(sorted({p.n_sources for line in lines.values() for p in line}))
        add_legend(figure, styles)

    caption = "Share of the gap to the experts against the number of sources; bars are one "
    return Drawing(
        f"{name}.share-by-sources.svg",
        draw("share-by-sources", (4.8, 3.4 + 0.1 * len(lines)), paint),
        f"{caption}standard error over documents.",
    )
