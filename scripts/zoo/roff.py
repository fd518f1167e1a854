"""Plain text of manual pages: macros become lines, escapes become characters."""

import re

_ESCAPES = [
    (re.compile(r"\\f(\[[^\]]*\]|\(..|.)"), ""),
    (re.compile(r"\\s(\[[^\]]*\]|[-+]?\d{1,2})"), ""),
    (re.compile(r"\\[mFY](\[[^\]]*\]|\(..|.)"), ""),
    (re.compile(r"\\n(\[[^\]]*\]|\(..|.)"), ""),
    (re.compile(r"\\[hvwlLDoXZ]'[^']*'"), ""),
    (re.compile(r"\\\*\(lq|\\\(lq|\\\[lq\]|\\\*\(rq|\\\(rq|\\\[rq\]|\\\(dq|\\\[dq\]"), '"'),
    (re.compile(r"\\\(aq|\\\[aq\]|\\\(cq|\\\[cq\]|\\\(oq|\\\[oq\]"), "'"),
    (re.compile(r"\\\(Fo|\\\[Fo\]"), "«"),
    (re.compile(r"\\\(Fc|\\\[Fc\]"), "»"),
    (re.compile(r"\\\(em|\\\[em\]|\\\(en|\\\[en\]|\\\(mi|\\\(hy|\\-"), "-"),
    (re.compile(r"\\\(ti|\\\[ti\]"), "~"),
    (re.compile(r"\\\(ha|\\\[ha\]"), "^"),
    (re.compile(r"\\\(rs|\\\[rs\]|\\e"), "\0"),
    (re.compile(r"\\\(..|\\\[[^\]]*\]|\\\*(\[[^\]]*\]|\(..|.)"), ""),
    (re.compile(r"\\[ ~0]"), " "),
    (re.compile(r'\\".*'), ""),
    (re.compile(r"\\[&/,|^%:acdpruz{}]"), ""),
    (re.compile(r"\\(.)"), r"\1"),
    (re.compile("\0"), r"\\"),
]
_ALTERNATING = {"BR", "RB", "IR", "RI", "BI", "IB"}
_JOINED = {"B", "I", "SM", "SB", "UR", "MT"}
_BREAKS = {
    "PP",
    "P",
    "LP",
    "TP",
    "TQ",
    "IP",
    "HP",
    "RS",
    "RE",
    "br",
    "sp",
    "nf",
    "fi",
    "EX",
    "EE",
}
_SECTIONS = {"SH", "SS"}
_BOILERPLATE = re.compile(
    r"colophon|traduction|übersetzung|traducción|copyright|auteur|autor|author|reporting bugs"
    r"|signaler|fehler berichten|informar|droits? |licen|lizenz",
    re.IGNORECASE,
)


def plain_text(roff: str) -> str:
    """Strip a page's markup.

    Args:
        roff: Source of a manual page in the man macro package.

    Returns:
        Its text, a line per source line, sections set off by an empty line; tables and the
        sections on authors, licences and translation are left out. Empty for an alias (``.so``).
    """
    lines: list[str] = []
    in_table = in_boilerplate = False
    for line in roff.splitlines():
        macro, _, rest = (
            line[1:].lstrip().partition(" ") if line[:1] in ".'" else ("", "", line)
        )
        if macro == "so":
            return ""
        if macro in ("TS", "TE"):
            in_table = macro == "TS"
        elif macro in _SECTIONS:
            title = _unescape(_join(rest, " "))
            in_boilerplate = (bool(_BOILERPLATE.search(title)) and macro == "SH") or (
                in_boilerplate and macro == "SS"
            )
            if not in_boilerplate:
                lines += ["", title]
        elif not in_table and not in_boilerplate:
            text = _text_of(macro, rest, is_macro=line[:1] in (".", "'"))
            if text is not None:
                lines.append(text)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _text_of(macro: str, rest: str, *, is_macro: bool) -> str | None:
    """The line a macro or a text line leaves behind; None where it leaves nothing."""
    if not is_macro:
        return _unescape(rest).rstrip()
    if macro in _ALTERNATING:
        return _unescape(_join(rest, ""))
    if macro in _JOINED:
        return _unescape(_join(rest, " "))
    if macro in _BREAKS:
        return ""
    return None


def _join(arguments: str, separator: str) -> str:
    """The arguments of a macro, quotes resolved, put together."""
    parts = re.findall(r'"((?:[^"]|"")*)"|((?:\\.|\S)+)', arguments)
    return separator.join(quoted.replace('""', '"') or bare for quoted, bare in parts)


def _unescape(text: str) -> str:
    for pattern, replacement in _ESCAPES:
        text = pattern.sub(replacement, text)
    return text
