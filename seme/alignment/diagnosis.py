"""What SeMe's alignment found, as tables for a terminal: from a record's diagnostics alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor


def recomposition_cosine(representations_ND: Tensor, vectors_VD: Tensor) -> Tensor:
    """Recompose representations from their cosines with unit vectors, and compare directions.

    Args:
        representations_ND: N representations, float.
        vectors_VD: V vectors; only their directions count, a vector of zeros counts for nothing.

    Returns:
        cos(r, sum_i cos(r, v_i) v_i / |v_i|) of each, float64, (N,), in [-1, 1].
    """
    r_ND = torch.nn.functional.normalize(representations_ND.double(), dim=1)
    unit_VD = torch.nn.functional.normalize(vectors_VD.double(), dim=1)
    recomposed_ND = r_ND @ (unit_VD.T @ unit_VD)
    return torch.nn.functional.cosine_similarity(r_ND, recomposed_ND, dim=1)


def random_vectors(n: int, width: int) -> Tensor:
    """Draw the control: vectors of independent normal numbers, the same on every call, (n, width)."""
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def source_table(diagnostics: Mapping[str, Any], names: Sequence[str]) -> Table:
    """One line per source: where it stands, what its match is worth, what it contributed.

    Args:
        diagnostics: Those of :mod:`seme.method`, from a report or a record.
        names: What to call the sources, in their order.
    """
    table = Table(title="SeMe: sources in the pivot's frame", title_justify="left")
    for column in (
        "source",
        "frame",
        "overlap",
        "condition",
        "heads",
        "neurons",
        "weight",
        "s",
    ):
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


def layer_table(source: Mapping[str, Any], name: str) -> Table:
    """One line per layer of the pivot: which layers of a source stand there, and how alike."""
    table = Table(title=f"{escape(name)}: layer by layer", title_justify="left")
    for column in ("layer", "source layers", "heads", "neurons"):
        table.add_column(column, justify="right")
    for number, layer in enumerate(source["layers"]):
        pairs = zip(layer["source_layers"], layer["shares"], strict=True)
        table.add_row(
            str(number),
            " + ".join(f"{share:.2f} x {theirs}" for theirs, share in pairs),
            _cosine(layer.get("heads_similarity")),
            _cosine(layer.get("neurons_similarity")),
        )
    return table


def cost_table(diagnostics: Mapping[str, Any], names: Sequence[str]) -> Table:
    """Seconds of each stage of the alignment, one line per source."""
    stages = sorted({stage for source in diagnostics["sources"] for stage in source["seconds"]})
    table = Table(title="Seconds per stage", title_justify="left")
    table.add_column("source")
    for stage in stages:
        table.add_column(stage, justify="right")
    for name, source in zip(names, diagnostics["sources"], strict=True):
        seconds = source["seconds"]
        table.add_row(escape(name), *(f"{seconds.get(stage, 0.0):.2f}" for stage in stages))
    return table


def _frame(source: Mapping[str, Any]) -> str:
    distance = source["distance_from_identity"]
    if distance is None:
        return "other width"
    return f"{'the same' if source['identity_shortcut'] else 'turned'}, ||T-I|| {distance:.3f}"


def _mean_over_layers(source: Mapping[str, Any], key: str) -> str:
    found = [layer[key] for layer in source["layers"] if key in layer]
    return _cosine(sum(found) / len(found) if found else None)


def _cosine(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
