"""A report as Markdown."""

import re
from collections.abc import Sequence

from markupsafe import escape

from eval.report.document import (
    Block,
    Commands,
    Drawing,
    Finding,
    Heading,
    Items,
    Paragraph,
    Table,
)


def to_markdown(blocks: Sequence[Block]) -> str:
    """The report as Markdown; drawings are files beside it."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Paragraph(text):
            return _plain(text)
        case Finding(verdict, text):
            return f"**{_plain(verdict)}**: {_plain(text)}"
        case Items(texts):
            return "\n".join(f"- {_plain(text)}" for text in texts)
        case Commands(lines):
            return "\n".join(["```sh", *lines, "```"])
        case Drawing(file, _, caption):
            return f"![{_plain(caption)}]({file})"
        case Table():
            return _markdown_table(block)


def _markdown_table(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def cell(column: int, text: str) -> str:
        plain = _plain(text).replace("|", "\\|")
        return f"**{plain}**" if column == table.verdict else plain

    head = [line([_plain(name) for name in table.header]), line(["---"] * len(table.header))]
    rows = [line([cell(i, text) for i, text in enumerate(row)]) for row in table.rows]
    lines = "\n".join(head + rows)
    summary = f"<summary>{escape(table.summary)}</summary>"
    return f"<details>{summary}\n\n{lines}\n\n</details>" if table.folded else lines


def _plain(text: str) -> str:
    """A text on one line that starts no tag and no emphasis."""
    return re.sub(r"([<*`\[])", r"\\\1", " ".join(text.split()))
