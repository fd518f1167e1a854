"""Errors of the command line's overrides in one line, with the nearest entry or choice."""

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

_ENTRY = re.compile(r"Could not (?:override|delete from config\.) '([^']+)'")
_CHOICE = re.compile(r"Could not (?:find|load) '(hydra/\w+|\w+)/([^']*)'")
_LISTED = re.compile(r"^\t(\S+)$", re.MULTILINE)
"""A choice as Hydra's message lists it."""
_SEVERAL = re.compile(r"Ambiguous value for argument '(.*)'$", re.MULTILINE)
_NOISE = ("See ", "^", "Error parsing override")
"""Beginnings of lines of Hydra's message that say nothing more."""
_QUOTES = (
    "quote values with spaces, commas, brackets or other letters within the shell's quotes: "
    "'models.pivot=\"my models/base\"'"
)


def explain(error: Exception, words: Sequence[str], conf: Path) -> str:
    """Say in one line which override cannot be used, and what was probably meant.

    Args:
        error: Raised by Hydra when it composed the configuration.
        words: The command line, such as ``["method=ties", "lam=2"]``.
        conf: Folder of configuration files; ``--config-dir`` names another one.

    Returns:
        The message, without ``error:``.
    """
    text = str(error)
    overrides = [word for word in words if not word.startswith("-")]
    folders = [*_further_folders(words), conf]
    if match := _ENTRY.search(text):
        return unknown_entry(match[1], known_entries(overrides, folders))
    if match := _CHOICE.search(text):
        of_hydra = match[1].startswith("hydra/")
        known = (
            _LISTED.findall(text.partition("Config search path")[0])
            if of_hydra
            else choices_of(match[1], folders)
        )
        return unknown_choice(match[1], match[2], sorted(known))
    if match := _SEVERAL.search(text):
        key = match[1].partition("=")[0]
        return f"{match[1]} has several values: add -m for a sweep, or write {key}=[A,B] for a list"
    if "group override must be a string" in text:
        groups = _groups(folders)
        wrong = [o for o in overrides if o.partition("=")[0] in groups and not _names_a_file(o)]
        return f"{', '.join(wrong)}: a group must be a file's name, or be left out"
    if (override := getattr(error, "override", None)) is not None:
        if (quoted := _quoted(override)) is not None:
            return f"{override} cannot be read: quote its value, {shlex.quote(quoted)}"
        lines = [line.strip() for line in text.splitlines()]
        reason = " ".join(line for line in lines if line and not line.startswith(_NOISE))
        if reason.startswith("LexerNoViableAlt"):  # followed by the override
            reason = "a quote, or a letter that needs quotes"
        return f"{override} cannot be read: {reason}; {_QUOTES}"
    cause = "" if error.__cause__ is None else f" ({str(error.__cause__).splitlines()[0]})"
    return " ".join(text.split()) + cause


def _names_a_file(override: str) -> bool:
    """Return True if the value of a group's override is a text, or a list."""
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
        return isinstance(parsed.value(), str | list)
    except HydraException:
        return True


def _quoted(override: str) -> str | None:
    """Quote the value of an override, or each item of a list; None if that is no help."""
    key, _, value = override.partition("=")
    is_list = value.startswith("[") and value.endswith("]")
    items = value[1:-1].split(",") if is_list else [value]
    if not value or any(mark in value for mark in "\"'{}\\") or not all(map(str.strip, items)):
        return None
    inner = ",".join(f'"{item.strip()}"' for item in items)
    quoted = f"{key}=[{inner}]" if is_list else f"{key}={inner}"
    try:
        OverridesParser.create().parse_overrides([quoted])
    except HydraException:
        return None
    return quoted


def _further_folders(words: Sequence[str]) -> list[Path]:
    """Folders that the command line adds to the search path."""
    folders = [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    folders += [value for word, value in pairwise(words) if word in ("--config-dir", "-cd")]
    return [Path(folder) for folder in folders]


def unknown_entry(key: str, known: Iterable[str]) -> str:
    """Say that an entry is unknown, with the nearest one, else those beside it."""
    names = sorted(known)
    if near := nearest(key, names):
        return f"there is no entry {key}; did you mean {near}?"
    group = key.rpartition(".")[0]
    beside = [name for name in names if name.rpartition(".")[0] == group] or names
    return f"there is no entry {key}, only {', '.join(beside)}"


def did_you_mean(names: Iterable[str], known: Iterable[str]) -> str:
    """Return the end of an error, ``; did you mean limit?``; empty if no name is like another."""
    choices = sorted(known)
    near = [close for n in names for close in difflib.get_close_matches(n, choices, n=1)]
    return f"; did you mean {', '.join(near)}?" if near else ""


def nearest(key: str, known: Iterable[str]) -> str | None:
    """Find the entry that was probably meant: its last part is the same, or spelt most alike."""
    group = key.rpartition(".")[0]
    by_last: dict[str, str] = {}
    for name in sorted(known, key=lambda n: (n.rpartition(".")[0] != group, n.count("."), n)):
        by_last.setdefault(_last(name), name)
    close = difflib.get_close_matches(_last(key), by_last, n=1)
    return by_last[close[0]] if close else None


def unknown_choice(group: str, choice: str, known: Sequence[str]) -> str:
    """Say that a group has no such file, with those it has and the nearest one."""
    near = difflib.get_close_matches(choice, known, n=1)
    hint = f"; did you mean {group}={near[0]}?" if near else ""
    return f"there is no {group}={choice}, only {', '.join(known)}{hint}"


def choices_of(group: str, folders: Sequence[Path]) -> list[str]:
    """List the files of a group, sorted, without their ending."""
    files = {
        path.relative_to(folder / group).with_suffix("").as_posix()
        for folder in folders
        for path in (folder / group).rglob("*.yaml")
    }
    return sorted(files)


def known_entries(overrides: Sequence[str], folders: Sequence[Path]) -> set[str]:
    """Dotted names of all entries of a configuration, those of the chosen files among them."""
    config = _read("config", folders)
    choices: dict[str, Any] = {}
    for line in config.pop("defaults", []):
        choices |= line if isinstance(line, Mapping) else {}
    groups = _groups(folders)
    given = dict(override.lstrip("+~").partition("=")[::2] for override in overrides)
    choices |= {group: given[group] for group in groups & given.keys()}
    for group in ("experiment", "variant"):
        for line in _read(f"{group}/{choices.get(group)}", folders).get("defaults", []):
            choices |= {key.rpartition("/")[2]: value for key, value in line.items()}
    choices |= {group: given[group] for group in groups & given.keys()}
    config.pop("hydra", None)
    entries = {*groups, *_dotted(config)}
    for group in groups - {"experiment", "variant"}:
        for name in str(choices.get(group)).strip("[]").split(","):  # one, or [A,B]
            entries |= set(_dotted(_read(f"{group}/{name.strip()}", folders), f"{group}."))
    return {entry for entry in entries if not _last(entry).startswith("_")}


def _groups(folders: Sequence[Path]) -> set[str]:
    return {
        path.name for folder in folders if folder.is_dir() for path in folder.iterdir()
        if path.is_dir() and path.name != "hydra"
    }  # fmt: skip


def _read(name: str, folders: Sequence[Path]) -> dict[str, Any]:
    """Read the first file of this name; empty if there is none, or it holds no mapping."""
    for folder in folders:
        file = folder / f"{name}.yaml"
        if file.is_file():
            try:
                content = yaml.safe_load(file.read_text(encoding="utf-8"))
            except yaml.YAMLError:  # Hydra names it
                content = None
            return content if isinstance(content, dict) else {}
    return {}


def _dotted(mapping: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all entries of nested mappings."""
    for key, value in mapping.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")


def _last(key: str) -> str:
    return key.rpartition(".")[2]
