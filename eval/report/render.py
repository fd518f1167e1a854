"""Markdown of a report, and one self-contained HTML page rendered from that Markdown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from eval.leaderboard.drawing import INK
from eval.tables import escape_cell
from eval.tables import plain as escaped

_STYLE = (
    Path(__file__).parent.parent / "leaderboard" / "page.css",
    Path(__file__).with_name("report.css"),
)
_GRAMMAR = ("table", "fence", "list", "heading", "html_block", "escape", "emphasis", "image")
"""Markdown that a report uses; a text of a record can start neither a link nor a tag."""
_FOLD = re.compile(r"<details><summary>[^<>]*</summary>|</details>")
_NUMBER = re.compile(r"[-+]?\d[\d.]*( ± [\d.]+)?")
_LONG = 24
"""Letters from which on a text of several words may wrap."""
_STACKED = 3
"""Tables of so few columns are stacked cell by cell on a phone."""
_PAGE = Markup("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body class="report">
<main>
{body}</main>
</body>
</html>
""")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of plain texts under a header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    verdict: int | None = None
    """Column, not the first, that holds verdicts; they are emphasised."""
    folded: str = ""
    """Summary of a table that the reader has to open; empty for an open one."""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows), self.header

    @property
    def markdown(self) -> str:
        rows = [[_cell(text) for text in row] for row in (self.header, *self.rows)]
        if self.verdict is not None:
            for row in rows[1:]:
                row[self.verdict] = f"**{row[self.verdict]}**"
        rows.insert(1, ["---"] * len(self.header))
        lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        if not self.folded:
            return lines
        name = escape(" ".join(self.folded.split()))
        summary = f"<summary>{name} ({len(self.rows)} rows)</summary>"
        return f"<details>{summary}\n\n{lines}\n\n</details>"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, and the name of the SVG file that the Markdown links."""

    file: str
    svg: str
    caption: str

    @property
    def markdown(self) -> str:
        caption = plain(self.caption).replace("]", "\\]")
        return f"![{caption}]({self.file})"


Block = str | Table | Drawing
"""A piece of a report; a str is Markdown made by the functions of this module."""


def heading(text: str, level: int = 2) -> str:
    """Make a heading; level 1 is the report's title."""
    return f"{'#' * level} {plain(text)}"


def finding(verdict: str, text: str) -> str:
    """Make a paragraph that begins with a verdict."""
    return f"**{plain(verdict)}**: {plain(text)}"


def items(texts: Sequence[str]) -> str:
    """Make a bulleted list of plain texts."""
    return "\n".join(f"- {plain(text)}" for text in texts)


def commands(lines: Sequence[str]) -> str:
    """Make a fenced block of shell commands."""
    return "\n".join(["```sh", *lines, "```"])


def plain(text: str) -> str:
    """Escape a text to one line that starts no tag, link, code or emphasis."""
    return escaped(" ".join(text.split()))


def to_markdown(blocks: Sequence[Block]) -> str:
    """Join the blocks of a report; drawings are links to the files of `drawing_files`."""
    texts = (block if isinstance(block, str) else block.markdown for block in blocks)
    return "\n\n".join(texts) + "\n"


def drawing_files(blocks: Sequence[Block]) -> dict[str, str]:
    """File name to SVG of every drawing, on white to be legible on any page."""
    return {
        b.file: b.svg.replace("<svg ", '<svg style="background: #ffffff" ', 1)
        for b in blocks
        if isinstance(b, Drawing)
    }


def to_html(blocks: Sequence[Block]) -> str:
    """Render the Markdown of a report as one page without scripts or outside resources.

    Args:
        blocks: The first is the title, a heading.
    """
    parser = MarkdownIt("zero", {"html": True}).enable(_GRAMMAR)
    tokens = parser.parse(to_markdown(blocks))
    title = _text(tokens[1])
    _style_tables(tokens)
    _style_texts(tokens, {b.file: b for b in blocks if isinstance(b, Drawing)})
    body = Markup(parser.renderer.render(tokens, parser.options, {}))  # escapes all texts
    style = Markup("".join(path.read_text(encoding="utf-8") for path in _STYLE))
    return str(_PAGE.format(title=title, style=style, body=body))


def _cell(text: str) -> str:
    return escape_cell(" ".join(text.split()))


def _style_tables(tokens: Sequence[Token]) -> None:
    """Label every table with the heading above it."""
    label = ""
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            label = _text(tokens[i + 1])
        elif token.type == "table_open":
            end = next(j for j in range(i, len(tokens)) if tokens[j].type == "table_close")
            _style_table(tokens[i : end + 1], label)


def _style_table(tokens: Sequence[Token], label: str) -> None:
    """Align columns by their content, make first cells headers, let the table scroll."""
    cells = [i for i, token in enumerate(tokens) if token.type in ("th_open", "td_open")]
    n_columns = sum(tokens[i].type == "th_open" for i in cells)
    for column in range(n_columns):
        kind = _kind([_text(tokens[i + 1]) for i in cells[column + n_columns :: n_columns]])
        for i in cells[column::n_columns]:
            tokens[i].attrs = {"class": kind}
    for i in cells[:n_columns]:
        tokens[i].attrSet("scope", "col")
    for i in cells[n_columns::n_columns]:
        tokens[i].tag = tokens[i + 2].tag = "th"
        tokens[i].attrs = {"scope": "row"}
    opening = '<div class="scroll{}" tabindex="0" role="region" aria-label="{}"><table>\n'
    stacked = " stacked" if n_columns <= _STACKED else ""
    _replace(tokens[0], Markup(opening).format(stacked, label))
    _replace(tokens[-1], Markup("</table></div>\n"))


def _style_texts(tokens: Sequence[Token], drawings: Mapping[str, Drawing]) -> None:
    """Set verdicts apart, embed the drawings, escape every tag but those of a fold."""
    for i, token in enumerate(tokens):
        children = token.children or []
        if token.type == "html_block":
            tag = token.content.strip()
            _replace(token, Markup(f"{tag}\n") if _FOLD.fullmatch(tag) else escape(tag))
        elif children and children[0].type == "image":
            _replace(children[0], _figure(drawings[str(children[0].attrs["src"])]))
            tokens[i - 1].hidden = tokens[i + 1].hidden = True  # no figure in a paragraph
        for child, following in pairwise([*children, token]):
            if child.type == "strong_open" and child.markup == "**":
                child.attrs = {"class": f"verdict {following.content.replace(' ', '-')}"}
            elif child.type == "text":
                _replace(child, _breakable(child.content))


def _replace(token: Token, html: Markup) -> None:
    token.type, token.content = "html_inline", html


def _figure(drawing: Drawing) -> Markup:
    svg = Markup(drawing.svg.replace(INK, "var(--ink)"))  # its texts were escaped when drawn
    return Markup(
        '<figure><div class="drawing" role="img" aria-label="{0}">{1}</div>'
        "<figcaption>{0}</figcaption></figure>\n"
    ).format(drawing.caption, svg)


def _text(inline: Token) -> str:
    """Text of an inline token without its Markdown."""
    return "".join(child.content for child in inline.children or [])


def _kind(cells: Sequence[str]) -> str:
    """Class of a column: numbers are right-aligned on one line, long texts may wrap."""
    if any(cells) and all(_NUMBER.fullmatch(text) for text in cells if text):
        return "number"
    return "text" if any(len(text) > _LONG and " " in text for text in cells) else ""


def _breakable(text: str) -> Markup:
    """Escape a text; names may be broken after underscores."""
    return Markup(str(escape(text)).replace("_", "_<wbr>"))
