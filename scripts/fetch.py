"""Fetch the data sets that a suite reads into a mirror, on a machine that has a network.

SEME_ONLINE=1 python -m scripts.fetch suite=NAME datasets_dir=FOLDER
SEME_ONLINE=1 python -m scripts.fetch 'tasks=[gsm8k,blimp]' datasets_dir=FOLDER
python -m scripts.fetch suite=NAME datasets_dir=FOLDER plan=true

Without ``SEME_ONLINE=1`` nothing is fetched: the commands that would are printed. ``plan=true``
prints only the table of what is needed and what is there. The environment variable
``SEME_DATASETS`` stands in for ``datasets_dir``.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub.errors import HfHubHTTPError
from rich.console import Console

from eval.data_plan import Need, commands, data_table, is_begun, needs, problems
from eval.suite import Suite, suite_from_config
from eval.task_extras import METRICS, NLTK, how_to_get, is_data

ROOT = Path(__file__).resolve().parents[1]
_KEYS = ("suite", "tasks", "datasets_dir", "plan")
_USAGE = (
    "usage: python -m scripts.fetch suite=NAME | tasks=[A,B] [datasets_dir=FOLDER] [plan=true]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A parsed command line."""

    suite: Suite
    mirror: Path
    """Absolute; need not exist."""
    plan: bool


def main(arguments: Sequence[str]) -> int:
    """List what a suite needs, fetch what is absent.

    Args:
        arguments: ``suite=NAME`` of ``conf/suite``, or ``tasks=[A,B]`` (tasks, groups, tags), or
            both; ``datasets_dir=FOLDER``; ``plan=true`` to stop after the table.

    Returns:
        0; 1 if something is absent or cannot be used in the end; 2 if the arguments are invalid.
    """
    try:
        request = _parse(arguments)
        needed = needs(request.suite, request.mirror)
    except (ValueError, yaml.YAMLError) as error:
        print(f"error: {error}\n{_USAGE}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(data_table(needed, f"Data in {request.mirror}"))
    if request.plan:
        return 0
    failures = []
    if os.environ.get("SEME_ONLINE") == "1":
        failures = _fetch(needed, request.mirror)
        needed = needs(request.suite, request.mirror)
    lines = [
        *commands(_to_fetch(needed), request.mirror),
        *how_to_get(_data_of_code(needed), request.mirror),
    ]
    for line in lines:
        print(line)
    unusable = problems(needed)
    for line in [*failures, *unusable]:
        print(line, file=sys.stderr)
    packages = {e for n in needed for e in n.data_set.extras if not is_data(e)}
    for line in how_to_get(packages, request.mirror):
        print(f"where the suite is run: {line}")
    return 1 if lines or unusable else 0


def _to_fetch(needed: Iterable[Need]) -> list[Need]:
    """Needs that a download serves: data not in the mirror, or begun there and not finished."""
    return [
        need
        for need in needed
        if need.data_set.name is not None
        and (need.data_set.place != "mirror" or is_begun(need.data_set))
    ]


def _data_of_code(needed: Iterable[Need]) -> list[str]:
    """Metrics and data of nltk that the tasks' code lacks: ``metrics/NAME``, ``nltk_data/NAME``."""
    return sorted({e for n in needed for e in n.data_set.extras if is_data(e)})


def _fetch(needed: Sequence[Need], mirror: Path) -> list[str]:
    """Download what is absent; return a line for each download that failed."""
    mirror.mkdir(parents=True, exist_ok=True)
    absent = [need.data_set for need in _to_fetch(needed)]
    wanted = [(str(d.name), d.revision, "dataset", str(d.name)) for d in absent]
    wanted += [
        (f"evaluate-metric/{extra.partition('/')[2]}", None, "space", extra)
        for extra in _data_of_code(needed)
        if extra.startswith(f"{METRICS}/")
    ]
    failures = []
    for name, revision, kind, place in dict.fromkeys(wanted):
        print(f"fetching {name}", flush=True)
        try:
            huggingface_hub.snapshot_download(
                name, repo_type=kind, revision=revision, local_dir=mirror / place
            )
        except (HfHubHTTPError, OSError, ValueError) as error:
            failures.append(f"{name} was not fetched: {type(error).__name__}: {error}")
    for extra in _data_of_code(needed):
        kind, _, name = extra.partition("/")
        if kind == NLTK:
            print(f"fetching {name} of nltk", flush=True)
            failures += _fetch_nltk(name, mirror / NLTK)
    return failures


def _fetch_nltk(name: str, folder: Path) -> list[str]:
    """Download data of nltk into a folder that only its owner may write to, as nltk demands."""
    import nltk  # noqa: PLC0415 (slow to load, and few suites need it)

    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        nltk.download(name, download_dir=str(folder), quiet=True, raise_on_error=True)
    except (OSError, ValueError) as error:
        return [f"{name} of nltk was not fetched: {type(error).__name__}: {error}"]
    return []


def _parse(arguments: Sequence[str]) -> Request:
    given: dict[str, Any] = {"datasets_dir": os.environ.get("SEME_DATASETS")}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in _KEYS or not equals:
            raise ValueError(f"expected {'=, '.join(_KEYS)}=, got {argument}")
        given[key] = yaml.safe_load(value)
    if not given["datasets_dir"]:
        raise ValueError("datasets_dir must be a folder for data sets, it is not given")
    if not isinstance(given.get("plan", False), bool):
        raise ValueError(f"plan must be true or false, got {given['plan']!r}")
    entries = _suite_entries(given.get("suite"), given.get("tasks"))
    suite = suite_from_config(entries, root=ROOT)
    if suite is None:
        raise ValueError(f"expected a suite with tasks, got {given.get('suite')}")
    mirror = Path(str(given["datasets_dir"])).expanduser().absolute()
    return Request(suite=suite, mirror=mirror, plan=given.get("plan", False))


def _suite_entries(name: str | None, tasks: list[Any] | None) -> dict[str, Any]:
    """Entries of a suite's file, its defaults below it; or of a suite of tasks by name."""
    if name is None and not tasks:
        raise ValueError("expected suite=NAME or tasks=[A,B], got neither")
    if tasks is not None and not isinstance(tasks, list):
        raise ValueError(f"tasks must be a list, [A,B], got {tasks!r}")
    entries = {"name": "tasks"} if name is None else _read_suite(name)
    return entries if tasks is None else {**entries, "tasks": tasks}


def _read_suite(name: str) -> dict[str, Any]:
    folder = ROOT / "conf" / "suite"
    if not (folder / f"{name}.yaml").is_file():
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        raise ValueError(f"suite must be one of {known}, got {name}")
    own: dict[str, Any] = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    entries: dict[str, Any] = {}
    for default in own.pop("defaults", []):
        if default != "_self_":
            entries |= _read_suite(default)
    return entries | own


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
