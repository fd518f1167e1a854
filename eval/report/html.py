"""A report as one page that needs nothing else."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup, escape

from eval.leaderboard.drawing import INK
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

_STYLE = (
    Path(__file__).parent.parent / "leaderboard" / "page.css",
    Path(__file__).with_name("report.css"),
)
_NUMBER = re.compile(r"[-+]?\d[\d.]*( ± [\d.]+)?")
_LONG = 24
"""Letters from which on a text of several words may wrap."""
_STACKED = 3
"""Tables of so few columns are shown cell by cell on a phone."""
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
{body}
</main>
</body>
</html>
""")


def to_html(blocks: Sequence[Block]) -> str:
    """The report as a page that needs nothing else; texts are escaped, no script may run."""
    title = next(b.text for b in blocks if isinstance(b, Heading))
    style = "".join(path.read_text(encoding="utf-8") for path in _STYLE)
    body = Markup("\n").join(map(_html, blocks))
    return str(_PAGE.format(title=title, style=Markup(style), body=body))


def _html(block: Block) -> Markup:
    match block:
        case Heading(text, level):
            return Markup("<h{0}>{1}</h{0}>").format(level, text)
        case Paragraph(text):
            return Markup("<p>{}</p>").format(text)
        case Finding(verdict, text):
            return Markup("<p>{} {}</p>").format(_badge(verdict), text)
        case Items(texts):
            items = _all(texts, Markup("<li>{}</li>").format)
            return Markup("<ul>{}</ul>").format(items)
        case Commands(lines):
            return Markup("<pre>{}</pre>").format("\n".join(lines))
        case Drawing(_, svg, caption):
            themed = Markup(svg.replace(INK, "var(--ink)"))  # its texts were escaped when drawn
            return Markup(
                '<figure><div class="drawing" role="img" aria-label="{0}">{1}</div>'
                "<figcaption>{0}</figcaption></figure>"
            ).format(caption, themed)
        case Table():
            return _html_table(block)


def _html_table(table: Table) -> Markup:
    kinds = [_kind([row[i] for row in table.rows]) for i in range(len(table.header))]

    def cell(column: int, text: str) -> Markup:
        if column == table.verdict:
            return Markup("<td>{}</td>").format(_badge(text))
        return Markup('<td class="{}">{}</td>').format(kinds[column], _breakable(text))

    def row(cells: Sequence[str]) -> Markup:
        first = Markup('<th scope="row">{}</th>').format(_breakable(cells[0]))
        rest = Markup("").join(cell(i, text) for i, text in enumerate(cells) if i)
        return Markup("<tr>{}{}</tr>").format(first, rest)

    head = Markup("").join(
        Markup('<th scope="col" class="{}">{}</th>').format(kind, _breakable(name))
        for kind, name in zip(kinds, table.header, strict=True)
    )
    shown = Markup(
        '<div class="scroll{}" tabindex="0" role="region" aria-label="{}"><table>'
        "<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody></table></div>"
    ).format(
        " stacked" if len(table.header) <= _STACKED else "",
        table.name,
        head,
        Markup("\n").join(map(row, table.rows)),
    )
    folded = Markup("<details><summary>{}</summary>\n{}</details>")
    return folded.format(table.summary, shown) if table.folded else shown


def _badge(verdict: str) -> Markup:
    kind = verdict.replace(" ", "-")
    return Markup('<span class="verdict {}">{}</span>').format(kind, verdict)


def _all(texts: Sequence[str], show: Callable[[str], Markup]) -> Markup:
    return Markup("").join(map(show, texts))


def _kind(cells: Sequence[str]) -> str:
    """Class of a column: numbers stand to the right on one line, long texts may wrap."""
    if any(cells) and all(_NUMBER.fullmatch(text) for text in cells if text):
        return "number"
    return "text" if any(len(text) > _LONG and " " in text for text in cells) else ""


def _breakable(text: str) -> Markup:
    """Names with underscores may be broken at them."""
    return Markup(str(escape(text)).replace("_", "_<wbr>"))
