"""Source texts: fetch packages, strip markup, split by document."""

import gzip
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "validation", "test"]
_TEST_SHARE, _VALIDATION_SHARE = 0.12, 0.08
_SHORTEST_DOCUMENT = 800
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One manual page or source file."""

    domain: str
    key: str
    """Page or file name without its language: translations of one page share it."""
    text: str

    @property
    def split(self) -> Split:
        """Split by the key alone, so that no translation of a test page is trained on."""
        return split_of(self.key)


def split_of(key: str) -> Split:
    """Assign a document, or a generated problem, to a split by the hash of its key."""
    place = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64
    if place < _TEST_SHARE:
        return "test"
    return "validation" if place < _TEST_SHARE + _VALIDATION_SHARE else "train"


def read_documents(
    texts: Mapping[str, Sequence[Mapping[str, Any]]], cache: Path
) -> dict[str, list[Document]]:
    """Fetch the packages that are not cached and read every document.

    Args:
        texts: The ``texts`` section of ``recipe.yaml``: domain to packages.
        cache: Folder of the package files.

    Returns:
        Domain to documents, sorted by key; duplicate texts and very short ones left out.

    Raises:
        ValueError: If a package cannot be fetched or is not the one the recipe names.
    """
    documents: dict[str, list[Document]] = {}
    for domain, packages in texts.items():
        seen: set[str] = set()
        kept = []
        for package in packages:
            for key, text in _entries(fetch(package, cache)):
                if len(text) >= _SHORTEST_DOCUMENT and text not in seen:
                    seen.add(text)
                    kept.append(Document(domain=domain, key=key, text=text))
        documents[domain] = sorted(kept, key=lambda d: (d.key, d.text))
    return documents


def fetch(package: Mapping[str, Any], cache: Path) -> Path:
    """Return the cached file of a package; download it if it is not there."""
    kind = "deb" if "deb" in package else "wheel"
    cached = cache / f"{package['sha256'][:16]}.{kind}"
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        _download(package, kind, cached)
    digest = hashlib.sha256(cached.read_bytes()).hexdigest()
    if digest != package["sha256"]:
        cached.unlink()
        raise ValueError(
            f"{package[kind]} {package['version']}: expected sha256 {package['sha256']}, got "
            f"{digest}; fetch that exact version and place it at {cached}"
        )
    return cached


def _download(package: Mapping[str, Any], kind: str, cached: Path) -> None:
    folder = cached.parent / f"{cached.name}.part"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if kind == "deb":
        command = ["apt-get", "download", f"{package['deb']}={package['version']}"]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", f"{package['wheel']}=={package['version']}"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        [file] = folder.iterdir()
        file.replace(cached)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise ValueError(
            f"could not fetch {package[kind]} {package['version']} with `{' '.join(command)}`: "
            f"{reason.strip()}\nFetch it by hand and place it at {cached}"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _entries(package: Path) -> Iterator[tuple[str, str]]:
    return _manual_pages(package) if package.suffix == ".deb" else _source_files(package)


def _manual_pages(package: Path) -> Iterator[tuple[str, str]]:
    unpacked = package.with_suffix(".unpacked")
    if not unpacked.is_dir():
        partial = Path(tempfile.mkdtemp(dir=package.parent))
        subprocess.run(["dpkg-deb", "-x", package, partial], check=True)
        partial.rename(unpacked)
    for page in sorted(unpacked.rglob("*.gz")):
        if "man" in page.parts and not page.is_symlink():
            with gzip.open(page, "rt", encoding="utf-8", errors="replace") as source:
                yield page.name.removesuffix(".gz"), plain_text(source.read())


def _source_files(package: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(package) as archive:
        for name in sorted(archive.namelist()):
            # Locale formats and migrations repeat one another; tests repeat what they test.
            if name.endswith(".py") and not {"locale", "tests"} & set(name.split("/")):
                yield name, archive.read(name).decode("utf-8")


def plain_text(roff: str) -> str:
    """Strip a page's markup.

    Args:
        roff: Source of a manual page in the man macro package.

    Returns:
        Its text, a line per source line, sections set off by an empty line; tables and the
        sections on authors, licences and translation are left out. Empty for an alias
        (``.so``).
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
    """Text of a macro or a text line; None for a macro without text."""
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
    """Join the arguments of a macro, quotes resolved."""
    parts = re.findall(r'"((?:[^"]|"")*)"|((?:\\.|\S)+)', arguments)
    return separator.join(quoted.replace('""', '"') or bare for quoted, bare in parts)


def _unescape(text: str) -> str:
    for pattern, replacement in _ESCAPES:
        text = pattern.sub(replacement, text)
    return text
