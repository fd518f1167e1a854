"""What a report consists of: headings, texts, tables, figures."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heading:
    """A title of a section; level 1 is the report's own."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, set apart, and what was found."""

    verdict: str
    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list of plain texts."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Commands:
    """Lines to type."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of plain texts under a header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    name: str = ""
    """What it shows, for readers who do not see it."""
    verdict: int | None = None
    """Column, not the first, that holds verdicts; they are set apart."""
    folded: bool = False
    """Whether a reader sees it only on opening it."""

    @property
    def summary(self) -> str:
        """What stands in its place while it is folded."""
        return f"{self.name} ({len(self.rows)} rows)"

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows), self.header


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, and the name of the file that Markdown shows it from."""

    file: str
    svg: str
    caption: str


Block = Heading | Paragraph | Finding | Items | Commands | Table | Drawing


def drawing_files(blocks: Sequence[Block]) -> dict[str, str]:
    """File name to content of every drawing, on white so that it is legible on any page."""
    return {
        b.file: b.svg.replace("<svg ", '<svg style="background: #ffffff" ', 1)
        for b in blocks
        if isinstance(b, Drawing)
    }
