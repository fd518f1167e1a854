"""Experiment of ``conf/experiment``: its question, commands and folders."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_BESIDE = "Beside:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Question, commands and folders of an experiment, from its configuration file."""

    name: str
    text: str
    """The header of its file: the question, the cost, what to expect."""
    commands: tuple[str, ...]
    """Shell commands in the header."""
    output: str
    """The results folder its runs go to."""
    suite: str | None
    """Name of the suite it sets; None for the default one."""
    beside: str | None = None
    """Another experiment, whose verdicts stand beside these."""


def read_experiment(path: Path) -> Experiment:
    """Read the header and the results folder of an experiment.

    The header is the comment the file begins with. Its lines that start with ``python`` or
    ``make`` are commands, ``@package`` is Hydra's, ``Beside:`` names the experiment to compare
    verdicts with, the rest is text.

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
    text = [
        line
        for line in header
        if line not in commands and "@package" not in line and not line.startswith(_BESIDE)
    ]
    beside = [line.removeprefix(_BESIDE).strip() for line in header if line.startswith(_BESIDE)]
    config: Any = yaml.safe_load(content)
    output = config.get("output") if isinstance(config, dict) else None
    if not commands or not isinstance(output, str):
        raise ValueError(
            f"{path} must state its command in the header, as '# python run.py -m ...', and "
            f"its results folder as 'output: FOLDER', got commands {list(commands)} "
            f"and {output!r}"
        )
    return Experiment(
        name=path.stem,
        text=re.sub(r"\s*Findings: see \S+", "", " ".join(filter(None, text))),
        commands=commands,
        output=output,
        suite=_suite(config),
        beside=next(iter(beside), None),
    )


def records_folder(experiment: Experiment, root: Path) -> Path:
    """Results folder of an experiment: the local one if it has runs, else the published one.

    Args:
        experiment: Its ``output`` is ``<results>/<name>``; the published records are then
            ``<results>/published/<name>``.
        root: The folder that ``output`` is relative to.
    """
    output = root / experiment.output
    published = output.parent / "published" / output.name
    return output if (output / "runs").is_dir() or not published.is_dir() else published


def _suite(config: dict[str, Any]) -> str | None:
    """Suite that the defaults list overrides."""
    entries = [entry for entry in config.get("defaults", []) if isinstance(entry, dict)]
    return next((e["override /suite"] for e in entries if "override /suite" in e), None)


def _header(content: str) -> list[str]:
    lines = []
    for line in content.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines
