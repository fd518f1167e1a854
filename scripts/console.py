"""The installed command ``seme-bench``: runs, tables and lists by name, from any folder.

``eval "$(seme-bench -sc install=bash)"`` completes commands and overrides with the tab key.
"""

import difflib
import os
import sys
from importlib import import_module
from pathlib import Path

from seme_bench.start import start

RUNS = {
    "merge": ("one run: merge, evaluate, record", []),
    "sweep": ("every combination of several values, one table", ["-m"]),
    "plan": ("what a run would take; no weights are read", ["plan=true"]),
}
"""Commands that are ``run.py``'s, with what they add to the command line."""
SCRIPTS = {
    "leaderboard": "tables and page of a results folder",
    "report": "claims of an experiment and what the records say",
    "verify": "a kept merge: its files hashed again, with rederive=true merged again",
    "status": "cells of a sweep: running, done, failed, waiting, and who runs them",
    "methods": "merge methods with parameters, defaults and papers",
}
"""Commands that are modules of this package: each has ``main(arguments) -> int``."""
_NAMES = (*RUNS, *SCRIPTS)
_SHELL = ("-sc", "--shell-completion")


def main() -> int:
    """Run the command named first on the command line.

    Returns:
        Its exit code; 2 if there is no such command.
    """
    arguments = sys.argv[1:]
    name = arguments[0] if arguments else "--help"
    if name in _SHELL:
        return _complete(arguments)
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name in RUNS:
        _, added = RUNS[name]
        sys.argv[1:] = [*added, *arguments[1:]]
        return start(Path.cwd())
    if name in SCRIPTS:
        code: int = import_module(f"scripts.{name}").main(arguments[1:])
        return code
    near = difflib.get_close_matches(name, _NAMES, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    print(f"error: there is no command {name}, only {', '.join(_NAMES)}{hint}", file=sys.stderr)
    return 2


def _help() -> str:
    texts = {name: text for name, (text, _) in RUNS.items()} | SCRIPTS
    lines = [f"  {name:<13}{text}" for name, text in texts.items()]
    return "\n".join(
        [
            "usage: seme-bench COMMAND [ARGUMENTS]",
            "",
            *lines,
            "",
            "Relative folders, results/ among them, are in the current folder. Options are",
            "KEY=VALUE; seme-bench merge --help lists them. Tab completion for this shell:",
            '  eval "$(seme-bench -sc install=bash)"',
        ]
    )


def _complete(arguments: list[str]) -> int:
    """Answer the shell: commands for the first word, Hydra's choices for the others."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    is_query = arguments[1:2] == ["query=bash"]
    if is_query and (len(words) < 2 or (len(words) == 2 and not line.endswith(" "))):
        print(" ".join(_NAMES))
        return 0
    if is_query and words[1] not in RUNS:
        return 0  # the shell completes names of files
    if is_query:
        os.environ["COMP_LINE"] = words[0] + line.split(words[1], 1)[1]
    return start(Path.cwd())


if __name__ == "__main__":
    sys.exit(main())
