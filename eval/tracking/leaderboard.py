"""The leaderboard of a results folder as one W&B run: a table, figures and an artifact."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.tracking.content import RunContent, Table

_FILES = ("leaderboard.md", "leaderboard.csv", "leaderboard.html", "figures/*.svg")
_TEXT_COLUMNS = {"pool", "models", "suite", "split", "precision", "kind", "method"} | {
    "settings",
    "tuned_on_test",
    "dtype",
    "fingerprint",
    "status",
}
"""Columns that stay text even if every value looks like a number."""


def leaderboard_content(root: Path) -> RunContent:
    """Collect the files that ``python -m scripts.leaderboard`` wrote.

    Args:
        root: The results folder.

    Raises:
        FileNotFoundError: If there is no ``leaderboard.csv``.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name)
    figures = sorted(root.glob("figures/*.svg"))
    return RunContent(
        name=f"leaderboard-{name}",
        job_type="leaderboard",
        tables={"leaderboard": _read_table(root / "leaderboard.csv")},
        figures={
            f"figures/{path.stem}": _on_white(path.read_text("utf-8")) for path in figures
        },
        folder=root,
        files=[path for pattern in _FILES for path in sorted(root.glob(pattern))],
    )


def _read_table(path: Path) -> Table:
    """Read a CSV file; columns without a value are left out."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        lines = list(reader)
    texts = {name: [line[name] for line in lines] for name in reader.fieldnames or ()}
    columns = {name: _typed(name, column) for name, column in texts.items() if any(column)}
    return Table(columns=tuple(columns), rows=tuple(zip(*columns.values(), strict=True)))


def _typed(name: str, texts: Sequence[str]) -> list[Any]:
    """Numbers if the whole column is numeric, else texts; None for an empty cell."""
    if name not in _TEXT_COLUMNS:
        try:
            return [float(text) if text else None for text in texts]
        except ValueError:
            pass
    return [text or None for text in texts]


def _on_white(svg: str) -> str:
    """Set a figure on white: its ink is dark, W&B's page may be too."""
    return f'<div style="background:#fff">{svg}</div>'
