"""Diagnostics of an aligned source: facts for the record, and a table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:  # run.py shows the table without loading the alignment: 40 ms of every start
    from seme.alignment.frames import Frame
    from seme.alignment.head_comparison import HeadComparison
    from seme.alignment.layers import LayerMatch

_COLUMNS = ("source", "frame", "overlap", "condition", "heads", "neurons", "weight", "s")


def describe_source(comparison: HeadComparison, frame: Frame | None) -> dict[str, Any]:
    """Collect the facts of one source, JSON-ready.

    Args:
        comparison: Of its LM head with the pivot's.
        frame: Its frame; None where it is merged as stored.
    """
    turn = comparison.turn if frame is None or frame.turn is None else frame.turn
    return {
        "identity_shortcut": comparison.in_frame,
        "distance_from_identity": turn.distance,
        "head_similarity": comparison.turn.similarity,
        "overlap": 1.0 if comparison.tokens is None else comparison.tokens.overlap,
        "shared_tokens": comparison.n_shared,
        "compared_tokens": comparison.n_anchors,
        "condition": comparison.condition,
        "ridge": comparison.ridge,
        "layers": [] if frame is None else [_describe_layer(layer) for layer in frame.layers],
    }


def _describe_layer(matches: Sequence[LayerMatch]) -> dict[str, Any]:
    """Collect the source layers matched to a layer, and the similarity of their units."""
    described: dict[str, Any] = {
        "source_layers": [match.layer for match in matches],
        "shares": [match.share for match in matches],
    }
    for kind, units in (
        ("heads", [match.heads for match in matches]),
        ("neurons", [match.neurons for match in matches]),
    ):
        means = [float(unit.similarity.mean()) for unit in units if unit is not None]
        if means:
            described[f"{kind}_similarity"] = sum(means) / len(means)
    heads = [match.heads for match in matches if match.heads is not None]
    if heads:
        described["rotary_exact"] = all(match.exact for match in heads)
    return described


def source_table(diagnostics: Mapping[str, Any], names: Sequence[str]) -> Table:
    """Build a table of frame, similarity of matched units, weight and seconds of each source.

    Args:
        diagnostics: Those of :mod:`seme.method`, from a report or a record.
        names: Names of the sources, in their order.
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
    """Format a cosine; empty where there is none."""
    return "" if value is None else f"{value:.2f}"
