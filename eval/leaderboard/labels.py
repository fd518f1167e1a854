"""Short names of rows for figures."""

from collections.abc import Sequence

from eval.leaderboard.board import Row


def short_labels(rows: Sequence[Row]) -> list[str]:
    """Rank, name and what tells a row from others of its name, in 44 characters at most."""
    ranks = ["" if row.rank is None else f"{row.rank}. " for row in rows]
    return [
        printable(f"{rank}{row.name} {row.shown_settings}".rstrip(), 44)
        for rank, row in zip(ranks, rows, strict=True)
    ]


def printable(text: str, length: int) -> str:
    """Shorten a text, and show what XML cannot hold, or what is no text, as a mark."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= length else f"{text[: length - 1]}…"
