"""Diagnostics of an alignment: seconds per stage, and a table of what a record holds."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rich.markup import escape
from rich.table import Table

_COLUMNS = ("source", "frame", "overlap", "condition", "heads", "neurons", "weight", "s")
_collected: ContextVar[dict[str, float]] = ContextVar("seconds by stage")


@contextmanager
def collect_seconds(seconds: dict[str, float]) -> Iterator[None]:
    """Add the seconds of every :func:`stage` inside the block to ``seconds``, by name."""
    token = _collected.set(seconds)
    try:
        yield
    finally:
        _collected.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a stage, as a block or a decorator; the time is dropped outside a collector.

    Do not nest stages: the seconds of the inner one would count twice.
    """
    start = time.perf_counter()
    yield
    seconds = _collected.get({})
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


def source_table(diagnostics: Mapping[str, Any], names: Sequence[str]) -> Table:
    """Build a table with frame, unit similarities, weight and seconds of each source.

    Args:
        diagnostics: Diagnostics of :mod:`seme.method`, from a merge report or a record.
        names: Names of the sources, in order.
    """
    table = Table(title="SeMe: sources in the pivot's frame", title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("source", "frame") else "right")
    fusion = diagnostics["fusion"]
    for name, source, weight in zip(
        names, diagnostics["sources"], fusion["coefficients"], strict=True
    ):
        table.add_row(
            escape(name),
            _frame(source),
            f"{100 * source['overlap']:.0f} %",
            f"{source['condition']:.3g}{' (ridge)' if source['ridge'] else ''}",
            _mean_over_layers(source, "heads_similarity"),
            _mean_over_layers(source, "neurons_similarity"),
            f"{weight:.3f}" if fusion["selected"] else "",
            f"{sum(source['seconds'].values()):.2f}",
        )
    if fusion["selected"]:
        table.caption = (
            f"{100 * fusion['selected']:.1f} % of the elements selected, "
            f"{100 * fusion['erased']:.1f} % of their deltas erased"
        )
    return table


def _frame(source: Mapping[str, Any]) -> str:
    distance = source["distance_from_identity"]
    if distance is None:
        return "other width"
    return f"{'the same' if source['identity_shortcut'] else 'turned'}, ||T-I|| {distance:.3f}"


def _mean_over_layers(source: Mapping[str, Any], key: str) -> str:
    values = [layer[key] for layer in source["layers"] if key in layer]
    return two_decimals(sum(values) / len(values) if values else None)


def two_decimals(value: float | None) -> str:
    """Format a cosine; an empty string for None."""
    return "" if value is None else f"{value:.2f}"
