"""Made-up diagnostics of an alignment of two sources, and the cells of tables."""

from rich.table import Table

_LAYERS = [
    {
        "source_layers": [0],
        "shares": [1.0],
        "heads_similarity": 0.5,
        "neurons_similarity": 0.25,
    },
    {"source_layers": [0, 1], "shares": [0.25, 0.75], "heads_similarity": 0.1},
]
_IN_FRAME = {
    "identity_shortcut": True, "distance_from_identity": 0.02, "overlap": 1.0,
    "condition": 31.6, "ridge": 0.0, "layers": [], "seconds": {"bases": 0.5},
}  # fmt: skip
NARROWER = _IN_FRAME | {
    "identity_shortcut": False, "distance_from_identity": None, "overlap": 0.948, "ridge": 1e-3,
    "layers": _LAYERS, "seconds": {"bases": 1.0, "units": 2.25},
}  # fmt: skip
DIAGNOSTICS = {
    "sources": [_IN_FRAME, NARROWER],
    "fusion": {"selected": 0.125, "erased": 0.5, "coefficients": [0.75, 0.25]},
}


def cells(table: Table) -> list[tuple]:
    """The rows of a table, as strings."""
    return list(zip(*(column.cells for column in table.columns), strict=True))
