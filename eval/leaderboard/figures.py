"""The figures of a board: score against cost, tasks, share kept, time and memory."""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.leaderboard.board import Board, Row
from eval.leaderboard.drawing import (
    FAINT,
    INK,
    LINES,
    SMALL,
    Style,
    add_legend,
    bars,
    draw,
    heat_map,
    names_beside,
    points,
    printable,
    series_styles,
    short_labels,
    spread,
)
from eval.statistics.scores import column_score
from eval.tables import MIB

_WIDTH = 4.8  # inches, as is the next
_LINE = 0.21
_LETTER = 0.08  # inches, no narrower than letters of a label are on average
_MOST_IN_LEGEND = 12
"""Methods up to which a legend names the points of a figure; more are named beside the axes."""
_MOST_LINES = 60
"""Merges up to which a figure has a line for each; of more it has the first on the board."""
_REACH = 15.0
"""Points from which on all changes have the strongest colour: one expert's gain of 40 would
leave none for the rest, and a fixed scale compares boards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One figure of one board."""

    name: str
    """Subject of the figure, part of its file's name: ``score-against-cost``."""
    caption: str
    svg: str
    """An ``svg`` element; the same bytes from the same board."""


def plots_of(board: Board) -> tuple[Plot, ...]:
    """Draw the figures that the board has numbers for."""
    kinds = (score_against_cost, task_heat_map, share_kept, time_and_memory)
    return tuple(plot for kind in kinds if (plot := kind(board)) is not None)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Find the points that no other beats, by rising cost.

    Args:
        points: Cost and score of each. One beats another if it costs no more and scores no
            less, and the two are not equal.

    Returns:
        Indices into ``points``.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def score_against_cost(board: Board) -> Plot | None:
    """Mean score against the seconds of the merge, with the Pareto front."""
    scored = [row for row in board.merges if row.mean is not None]
    timed = [(cost, row) for row in scored if (cost := row.merge_seconds) is not None]
    if not timed:
        return None
    styles = series_styles(row.name for row in board.merges)
    legend = {row.name: styles[row.name] for _, row in timed}
    many = len(legend) > _MOST_IN_LEGEND

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="merge, seconds", ylabel="mean score, %")
        _unmerged_lines(axes, board, inside=many)
        places = [(cost, _mean(row)) for cost, row in timed]
        front = [places[i] for i in pareto_front(places)]
        axes.plot([x for x, _ in front], [y for _, y in front], color=INK, lw=1.0)
        for cost, row in timed:
            _add(axes, [(cost, row)], styles[row.name])
            if not many:
                place = (cost, _mean(row))
                axes.annotate(
                    str(row.rank), place, (4, 4), textcoords="offset points", fontsize=SMALL
                )
        spread(axes, [cost for cost, _ in timed])
        if many:
            names_beside(axes, _best_of_each(timed))
        else:
            add_legend(figure, dict(sorted(legend.items())))

    numbers = (
        "Names have the rank of the method's best setting" if many else "Numbers are ranks"
    )
    caption = (
        f"Mean score against merge time. {numbers}, bars one standard error; the line "
        "joins the merges that no other beats in both (the Pareto front)."
    )
    size = (_WIDTH + 1.4, max(3.6, 0.17 * len(legend))) if many else (_WIDTH, 3.6)
    return _plot(board, "score-against-cost", caption, size, paint)


def _best_of_each(timed: Sequence[tuple[float, Row]]) -> list[tuple[str, tuple[float, float]]]:
    """Label and place of the best run of every method, best first."""
    best: dict[str, tuple[str, tuple[float, float]]] = {}
    for cost, row in sorted(timed, key=lambda run: -_mean(run[1])):
        best.setdefault(row.name, (f"{row.rank} {row.name}", (cost, _mean(row))))
    return list(best.values())


def task_heat_map(board: Board) -> Plot | None:
    """Score of every task, coloured by its distance from the pivot's.

    Where the pivot has no scores, the distance is from the mean of the rows.
    """
    merges = [row for row in board.merges if row.mean is not None]
    first_merges = merges[:_MOST_LINES]
    rows = [*(row for row in board.references if row.mean is not None), *first_merges]
    if not rows:
        return None
    columns = board.columns
    scores = [
        [100 * column_score(shares, row.record.scores).value for shares in columns.values()]
        for row in rows
    ]
    pivot = next((i for i, row in enumerate(rows) if _is_pivot(board, row)), None)
    centres = (
        [statistics.fmean(of_task) for of_task in zip(*scores, strict=True)]
        if pivot is None
        else scores[pivot]
    )
    changes = [[s - c for s, c in zip(line, centres, strict=True)] for line in scores]
    tasks, labels = [printable(name, 24) for name in columns], short_labels(rows)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        heat_map(axes, scores, changes, _REACH)
        axes.set_xticks([x + 0.5 for x in range(len(tasks))], tasks, rotation=40, ha="right")
        axes.set_yticks([y + 0.5 for y in range(len(rows))], labels)

    centre = "the mean of the rows" if pivot is None else f"{rows[pivot].name} (the pivot)"
    caption = (
        f"Scores in per cent. Blue is above {centre}, red below it; the strongest colour is "
        f"{_REACH:g} points away, or more.{_left_out(merges)}"
    )
    size = (
        0.4 + _LETTER * max(map(len, labels)) + 0.42 * len(tasks),
        0.3 + 0.7 * _LETTER * max(map(len, tasks)) + _LINE * len(rows),
    )
    return _plot(board, "task-heat-map", caption, size, paint)


def share_kept(board: Board) -> Plot | None:
    """Mean score against ``tau`` or ``density``, a line per method.

    A line joins runs that differ in nothing but this share and the seed; where seeds repeat a
    share, it passes through their mean.
    """
    lines: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    for row in board.merges:
        share = _share(row.record.settings)
        if share is not None and row.mean is not None:
            lines.setdefault(_rest(row), []).append((share, row))
    if not lines:
        return None
    lines = dict(sorted(lines.items()))
    labels = [printable(" ".join(filter(None, line)), 50) for line in lines]
    styles = _line_styles(board, list(lines))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="share kept (tau, density)", ylabel="mean score, %")
        _unmerged_lines(axes, board)
        for runs, style in zip(lines.values(), styles, strict=True):
            _add(axes, runs, style)
            shares = sorted({share for share, _ in runs})
            means = [statistics.fmean(_mean(r) for s, r in runs if s == x) for x in shares]
            axes.plot(shares, means, color=style.colour, ls=style.line, lw=1.2)
        spread(axes, [share for runs in lines.values() for share, _ in runs])
        add_legend(figure, dict(zip(labels, styles, strict=True)))

    caption = (
        "Mean score against the share of each task vector that is kept; bars are one standard "
        "error over documents."
    )
    return _plot(board, "share-kept", caption, (_WIDTH, 3.2 + 0.18 * len(labels)), paint)


def time_and_memory(board: Board) -> Plot | None:
    """Seconds and memory of every finished merge."""
    done = [row for row in board.merges if row.record.status == "done"]
    timed = [row for row in done if row.record.merge_cost is not None]
    if not timed:
        return None
    rows = timed[:_MOST_LINES]
    labels = short_labels(rows)

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        bars(left, [row.merge_seconds or 0.0 for row in rows], "{:.2f}")
        bars(right, [(row.merge_bytes or 0) / MIB for row in rows], "{:.0f}")
        left.set(xlabel="merge, seconds")
        right.set(xlabel="peak memory, MiB")
        left.set_yticks(range(len(rows)), labels)
        left.invert_yaxis()

    caption = (
        "Time and peak resident memory of every merge, memory above where the merge started."
        f"{_left_out(timed)}"
    )
    size = (4.0 + _LETTER * max(map(len, labels)), 0.7 + _LINE * len(rows))
    return _plot(board, "time-and-memory", caption, size, paint)


def _left_out(merges: Sequence[Row]) -> str:
    """Say that a figure has not all of these merges, where it has not."""
    n = len(merges)
    return f" The first {_MOST_LINES} of {n} merges." if n > _MOST_LINES else ""


def _plot(
    board: Board,
    name: str,
    caption: str,
    size: tuple[float, float],
    paint: Callable[[Figure], None],
) -> Plot:
    key = f"{name} {board.pool} {board.models} {board.fingerprint} {board.precision}"
    return Plot(name=name, caption=caption, svg=draw(key, size, paint))


def _mean(row: Row) -> float:
    """Mean score in per cent, of a row that has one."""
    assert row.mean is not None
    return 100 * row.mean.value


def _is_pivot(board: Board, row: Row) -> bool:
    pivot = board.merges[0].record.models.pivot.content_hash
    is_reference = row.record.kind == "reference"
    return is_reference and row.record.models.pivot.content_hash == pivot


def _unmerged_lines(axes: Axes, board: Board, *, inside: bool = False) -> None:
    """Mark the scores of the pivot and of the best unmerged model, named beside the axes."""
    x, side, height = (0.99, "right", "bottom") if inside else (1.01, "left", "center")
    scored = [row for row in board.references if row.mean is not None]
    best = max(scored, key=_mean, default=None)
    for row in scored:
        if row is best or _is_pivot(board, row):
            axes.axhline(_mean(row), color=FAINT, lw=1.0, ls="--", zorder=0)
            place = axes.get_yaxis_transform()
            name = printable(row.name, 16)
            style: dict[str, Any] = {"ha": side, "va": height, "fontsize": SMALL}
            axes.text(x, _mean(row), name, transform=place, **style)


def _add(axes: Axes, runs: Sequence[tuple[float, Row]], style: Style) -> None:
    """Mean scores with one standard error, each at its place on the horizontal axis."""
    errors = [100 * row.mean.stderr for _, row in runs if row.mean is not None]
    points(axes, [x for x, _ in runs], [_mean(row) for _, row in runs], errors, style)


def _share(settings: Mapping[str, Any]) -> float | None:
    """The share kept, in (0, 1]; None for a method that keeps all."""
    share = settings.get("tau", settings.get("density"))
    return float(share) if isinstance(share, int | float) else None


def _rest(row: Row) -> tuple[str, str]:
    """Name of a line: the method, and the row's own settings but the share and the seed."""
    swept = ("tau=", "density=", "seed=")
    kept = [setting for setting in row.own_settings.split() if not setting.startswith(swept)]
    return row.name, " ".join(kept)


def _line_styles(board: Board, lines: Sequence[tuple[str, str]]) -> list[Style]:
    """Every method in its colour; several lines of one method are dashed each its own way."""
    methods = series_styles(row.name for row in board.merges)
    seen: Counter[str] = Counter()
    styles = []
    for method, _ in lines:
        styles.append(methods[method]._replace(line=LINES[seen[method] % len(LINES)]))
        seen[method] += 1
    return styles
