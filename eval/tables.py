"""Cells and tables as text, shared by leaderboard, page, report and terminal.

Names, settings and messages of records are foreign text: what would be markup, a line or a
formula in the place where they stand is escaped here.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from eval.metric_kinds import TaskMetric
from eval.statistics.scores import Estimate

MIB = 2**20
_BREAKS = re.compile(r"\r\n|[\n\r\t\v\f\x1c-\x1e\x85\u2028\u2029]")
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, marks that turn the direction of writing, halves of characters."""
_MARKUP = re.compile(r"[\\<*`\[]")
_FORMULA = re.compile(r"\s*[=+@\uff0b\uff0d\uff1d\uff20-]")
"""Beginnings that spreadsheets compute: OWASP, CSV injection."""


def percent(fraction: float, digits: int = 2) -> str:
    """Format a fraction in per cent, without its sign where it rounds to zero."""
    return f"{100 * fraction:z.{digits}f}"


def points(difference: float, digits: int = 2) -> str:
    """Format a difference of fractions in percentage points, always signed; zero is +0.00."""
    return f"{100 * difference:+z.{digits}f}"


def with_error(
    estimate: Estimate | None, show: Callable[[float, int], str] = percent, digits: int = 2
) -> str:
    """Format ``39.33 ± 0.48``: an estimate and one standard error, in per cent.

    Args:
        estimate: In fractions; None gives the empty text.
        show: ``percent``, or ``points`` for a difference.
        digits: After the decimal point, of both numbers.
    """
    if estimate is None:
        return ""
    return f"{show(estimate.value, digits)} ± {percent(estimate.stderr, digits)}"


def metric_text(metric: TaskMetric) -> str:
    """Format a metric in its own unit with one standard error, if known: ``0.231 ± 0.02``."""
    if metric.value is None:
        return "not finite"
    error = "" if metric.stderr is None else f" ± {metric.stderr:.2g}"
    return f"{metric.value:.4g}{error}"


def seconds(duration: float | None, digits: int = 2) -> str:
    """Format seconds without their unit; empty for None."""
    return "" if duration is None else f"{duration:.{digits}f}"


def mib(n_bytes: float | None, digits: int = 0) -> str:
    """Format bytes in MiB without the unit; empty for None."""
    return "" if n_bytes is None else f"{n_bytes / MIB:.{digits}f}"


def alternatives(values: Sequence[object]) -> str:
    """Format ``100 or 200``; ``none`` without any value."""
    return " or ".join(map(str, values)) or "none"


def leaves(value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 (any JSON)
    """Yield the leaves of nested JSON, each with its dotted path: ``sources.0.name``.

    A list is a leaf unless it holds an object or a list. The path of a bare leaf is empty.
    """
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif isinstance(value, list) and any(isinstance(part, Mapping | list) for part in value):
        parts = list(enumerate(value))
    else:
        yield "", value
        return
    for key, part in parts:
        for path, leaf in leaves(part):
            yield f"{key}.{path}" if path else str(key), leaf


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table of plain texts, each escaped."""
    lines = ([*map(escape_cell, header)], ["---"] * len(header))
    cells = [[*map(escape_cell, row)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (*lines, *cells))


def escape_cell(text: str) -> str:
    """Fit a text into one cell of a Markdown table."""
    return plain(text).replace("|", "\\|")


def plain(text: str) -> str:
    """Escape a text for Markdown: one line that starts no tag, link, code or emphasis."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def code(text: str) -> str:
    """Set a text as code in Markdown; backquotes become apostrophes."""
    return f"`{one_line(text).replace('`', chr(39))}`"


def csv_cell(value: Any) -> Any:  # noqa: ANN401 (numbers and None stay as they are)
    """Fit a text into a cell of a CSV file: a spreadsheet shows it and computes nothing."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if _FORMULA.match(text) else text


def one_line(text: str) -> str:
    """Replace breaks of a line by spaces, and what cannot be shown by a replacement character."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", _BREAKS.sub(" ", text))
