"""SVG figures in one style: the same bytes from the same numbers."""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from eval.leaderboard.board import Row

INK = "#1c2128"
"""Colour of all text and axes; pages with a dark background replace it."""
FAINT = "#8a929c"
"""Colour of grids and of marks that are no data; legible on light and dark."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8661c1")
"""Colours for all kinds of colour vision: Okabe and Ito's, violet for black and yellow."""
SMALL = 7.5
"""Points; all other text has 9."""
_MARKERS = "osD^vPX"
LINES = ("-", "--", ":", "-.")
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes a paper's font
    "text.parse_math": False,  # a dollar in a record is a dollar
    "font.size": 9.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


class Style(NamedTuple):
    """Colour, marker and line of one series."""

    colour: str
    marker: str
    line: str
    """One of ``LINES``, empty for points that are not joined."""


def draw(name: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    """Draw a figure, independent of the user's matplotlib settings.

    Args:
        name: Unique among the figures of a page; seeds the ids in the SVG.
        size: Width and height in inches.
        paint: Draws on the empty figure.

    Returns:
        An ``svg`` element on a transparent background, without date or version.
    """
    target = io.StringIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        # text stays text: what DejaVu lacks, the reader's font may have
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": ascii(name)})
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(target, format="svg", metadata=empty)
    svg = target.getvalue()
    return re.sub('<g id="[^"]*"', "<g", svg[svg.index("<svg") :])


def series_styles(names: Iterable[str]) -> dict[str, Style]:
    """Give each of up to 49 names its own style, whatever their order."""
    n = len(COLOURS)
    return {
        name: Style(COLOURS[i % n], _MARKERS[(i + i // n) % n], "")
        for i, name in enumerate(sorted(set(names)))
    }


def add_legend(figure: Figure, styles: Mapping[str, Style]) -> None:
    """Write the names below the axes, where they hide no data."""
    handles = [
        Line2D([], [], color=s.colour, marker=s.marker, ls=s.line) for s in styles.values()
    ]
    columns = 3 if max(map(len, styles)) <= 16 else 1
    figure.legend(handles, list(styles), loc="outside lower center", ncols=columns)


def spread(axes: Axes, values: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic where values span a factor of eight or more."""
    if min(values) > 0 and max(values) >= 8 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())


def points(
    axes: Axes,
    xs: Sequence[float],
    ys: Sequence[float],
    errors: Sequence[float],
    style: Style,
) -> None:
    """Draw points with error bars of half length ``errors``, not joined."""
    colour, marker, _ = style
    axes.errorbar(xs, ys, errors, color=colour, fmt=marker, ms=5, elinewidth=1)


def names_beside(axes: Axes, named: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Name points in a column right of the axes, from above, each joined to its point.

    Args:
        axes: Holds the points.
        named: Names and the points' coordinates.
    """
    for i, (name, place) in enumerate(named):
        height = 1 - (i + 0.5) / len(named)
        axes.annotate(
            printable(name, 24),
            place,
            (1.06, height),
            textcoords="axes fraction",
            va="center",
            fontsize=SMALL,
            arrowprops={
                "arrowstyle": "-",
                "color": FAINT,
                "lw": 0.5,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def bars(axes: Axes, values: Sequence[float], form: str) -> None:
    """Draw horizontal bars from above, each with its value in ``form``."""
    drawn = axes.barh(range(len(values)), values, height=0.66, color=COLOURS[0])
    axes.bar_label(drawn, [form.format(v) for v in values], padding=2, fontsize=SMALL)
    axes.margins(x=0.18, y=0.01)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def heat_map(
    axes: Axes,
    values: Sequence[Sequence[float]],
    changes: Sequence[Sequence[float]],
    reach: float,
) -> None:
    """Write values in cells, rows from above, coloured by ``changes``.

    Args:
        axes: Empty axes.
        values: Rows of cells, written with one decimal.
        changes: Of the same shape; blue above 0, red below it.
        reach: Change from which on a colour is as strong as it gets.
    """
    # edges in the cells' own colours leave no seams between them
    axes.pcolormesh(
        changes, cmap="RdBu", vmin=-reach, vmax=reach, edgecolors="face", linewidth=0.4
    )
    for y, (line, changed) in enumerate(zip(values, changes, strict=True)):
        for x, (value, change) in enumerate(zip(line, changed, strict=True)):
            colour = "#ffffff" if abs(change) > 0.6 * reach else "#000000"
            text = axes.text(x + 0.5, y + 0.5, f"{value:.1f}", color=colour, fontsize=SMALL)
            text.set(ha="center", va="center_baseline")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.invert_yaxis()


def short_labels(rows: Sequence[Row]) -> list[str]:
    """Rank, name and own settings of each row, in 44 characters at most."""
    ranks = ["" if row.rank is None else f"{row.rank}. " for row in rows]
    return [
        printable(f"{rank}{row.name} {row.marked_settings}".rstrip(), 44)
        for rank, row in zip(ranks, rows, strict=True)
    ]


def printable(text: str, length: int) -> str:
    """Shorten a text; unprintable characters become the replacement character."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= length else f"{text[: length - 1]}…"
