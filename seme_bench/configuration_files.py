"""YAML files that Hydra reads: their folders, and their size before it reads them."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from seme.yaml_events import check_growth

_ALIAS = re.compile(r"(?:^|[\s,\[{:?-])\*[^\s,\[\]{}]")


def config_folders(arguments: Sequence[str], conf: Path) -> list[Path]:
    """List the folders that Hydra reads YAML files from.

    Args:
        arguments: Those of the command line, without the program.
        conf: The benchmark's folder of configuration files.
    """
    options = ("--config-dir", "-cd", "--config-path", "-cp")
    given = [a.partition("=")[2] for a in arguments if a.startswith(options) and "=" in a]
    given += [b for a, b in pairwise(arguments) if a in options]
    return [conf, *map(Path, given)]


def check_aliases(folders: Iterable[Path]) -> None:
    """Refuse YAML files that grow without bound when their aliases are written out.

    Only files with an alias are looked into: others are as large as their text.

    Args:
        folders: Folders that Hydra reads YAML files from, with what is below them.

    Raises:
        ValueError: If a file with aliases has more than 100,000 nodes when they are written out,
            refers to itself, or is nested in more than 100 levels; names the file.
    """
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")):
            text = path.read_text(encoding="utf-8", errors="replace")
            if "&" in text and _ALIAS.search(text):
                try:
                    check_growth(text)
                except ValueError as error:
                    raise ValueError(f"{path}: {error}") from error
