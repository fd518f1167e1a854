"""An experiment as its configuration states it: the question, the commands, the output."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What a report says of an experiment before it looks at any record."""

    name: str
    text: str
    """The header of its file: the question, the cost, what to expect."""
    commands: tuple[str, ...]
    """The lines of the header that are to be typed."""
    output: str
    """The results folder its runs go to."""
    suite: str | None
    """Name of the suite it overrides; None if it takes the default one."""


def read_experiment(path: Path) -> Experiment:
    """Read an experiment's header and where its records go.

    The header is the comment the file begins with. Its lines that start with ``python`` or
    ``make`` are commands, ``@package`` is Hydra's, the rest is text.

    Args:
        path: ``conf/experiment/<name>.yaml``.

    Raises:
        ValueError: If there is no such file, or it states no command or no output; says what
            was expected.
    """
    if not path.is_file():
        known = sorted(other.stem for other in path.parent.glob("*.yaml"))
        raise ValueError(f"experiment must be one of {known}, got {path.stem}")
    content = path.read_text(encoding="utf-8")
    header = _header(content)
    commands = tuple(line for line in header if line.startswith(("python ", "make ")))
    text = [line for line in header if line not in commands and "@package" not in line]
    found: Any = yaml.safe_load(content)
    output = found.get("output") if isinstance(found, dict) else None
    if not commands or not isinstance(output, str):
        raise ValueError(
            f"{path} must state its command in the header, as '# python run.py -m ...', and its "
            f"results folder as 'output: FOLDER', got commands {list(commands)} and {output!r}"
        )
    return Experiment(
        name=path.stem,
        text=" ".join(filter(None, text)),
        commands=commands,
        output=output,
        suite=_suite(found),
    )


def records_folder(experiment: Experiment, root: Path) -> Path:
    """Where the experiment's records are: one's own if there are any, else the published ones.

    Args:
        experiment: Its ``output`` is ``<results>/<name>``; the published records are then
            ``<results>/published/<name>``.
        root: The folder that ``output`` is relative to.
    """
    output = root / experiment.output
    published = output.parent / "published" / output.name
    return output if (output / "runs").is_dir() or not published.is_dir() else published


def _suite(config: dict[str, Any]) -> str | None:
    """The suite that the defaults list overrides."""
    entries = [entry for entry in config.get("defaults", []) if isinstance(entry, dict)]
    return next((e["override /suite"] for e in entries if "override /suite" in e), None)


def _header(content: str) -> list[str]:
    lines = []
    for line in content.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines
