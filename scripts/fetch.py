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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub.errors import HfHubHTTPError
from rich.console import Console
from rich.table import Table

from eval.datasets_dir import DataSet, data_of, download_command
from eval.suite import Suite, suite_from_config
from eval.task_extras import METRICS, how_to_get
from eval.task_manager import leaf_changes, task_manager

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
    console.print(table(needed, request.mirror))
    if request.plan:
        return 0
    if os.environ.get("SEME_ONLINE") == "1":
        failures = _fetch(needed.values(), request.mirror)
        needed = needs(request.suite, request.mirror)
    else:
        failures = []
    commands = _commands(needed.values(), request.mirror)
    for line in commands:
        print(line)
    unusable = {d.problem for d in needed.values() if d.problem and not _is_absent(d)}
    for line in [*failures, *sorted(map(str, unusable))]:
        print(line, file=sys.stderr)
    packages = {e for d in needed.values() for e in d.extras if not e.startswith(METRICS)}
    for line in how_to_get(packages, request.mirror):
        print(f"where the suite is run: {line}")
    return 1 if commands or unusable else 0


def needs(suite: Suite, mirror: Path) -> dict[str, DataSet]:
    """Map the suite's tasks, groups expanded, to their data.

    Args:
        suite: The suite.
        mirror: Folder of data sets; it need not exist.

    Raises:
        ValueError: If a task is unknown.
    """
    names = [task.task for task in suite.tasks]
    manager = task_manager(suite.include_path, names)
    split = {} if suite.split is None else {"test_split": suite.split}
    needed = {}
    for task in suite.tasks:
        shots = {} if task.num_fewshot is None else {"num_fewshot": task.num_fewshot}
        for leaf, changes in leaf_changes(manager, task.task).items():
            existing = mirror if mirror.is_dir() else None
            needed[leaf] = data_of(manager, leaf, existing, {**changes, **shots, **split})
    return needed


def table(needed: Mapping[str, DataSet], mirror: Path) -> Table:
    """One row per data set: where it is, which tasks read it, what their code lacks."""
    rows = Table(title=f"Data in {mirror}", title_justify="left")
    for header in ("data set", "is", "tasks", "lacks"):
        rows.add_column(header, overflow="fold")
    for name, tasks in _by_name(needed).items():
        data_sets = [needed[task] for task in tasks]
        states = dict.fromkeys(map(_state, data_sets))
        more = f" and {len(tasks) - 2} more" if len(tasks) > 2 else ""
        extras = dict.fromkeys(e for data_set in data_sets for e in data_set.extras)
        rows.add_row(name, ", ".join(states), ", ".join(tasks[:2]) + more, ", ".join(extras))
    return rows


def _by_name(needed: Mapping[str, DataSet]) -> dict[str, list[str]]:
    """Data set to the tasks that read it, in order; the tasks' own files come as one."""
    tasks: dict[str, list[str]] = {}
    for task, data_set in needed.items():
        tasks.setdefault(data_set.name or "files of the task", []).append(task)
    return tasks


def _state(data_set: DataSet) -> str:
    if data_set.problem is not None and not _is_absent(data_set):
        return "unusable"
    names = {"mirror": "there", "task": "there", "cache": "in the Hub's cache"}
    return names.get(str(data_set.place), "absent")


def _is_absent(data_set: DataSet) -> bool:
    """True if a download would help: not in the mirror, or begun there and not finished."""
    if data_set.name is None:
        return False
    if data_set.place != "mirror":
        return True
    begun = data_set.folder is not None and (data_set.folder / ".cache/huggingface").is_dir()
    return data_set.problem is not None and begun


def _repositories(needed: Iterable[DataSet]) -> dict[tuple[str, str | None], None]:
    """Names and revisions of the data sets to download, each once, in order."""
    return {(str(d.name), d.revision): None for d in needed if _is_absent(d)}


def _metrics(needed: Iterable[DataSet]) -> list[str]:
    return sorted({e for d in needed for e in d.extras if e.startswith(METRICS)})


def _commands(needed: Iterable[DataSet], mirror: Path) -> list[str]:
    """Shell commands that fetch what is absent."""
    needed = list(needed)
    data = [download_command(name, mirror, rev) for name, rev in _repositories(needed)]
    return [*data, *how_to_get(_metrics(needed), mirror)]


def _fetch(needed: Iterable[DataSet], mirror: Path) -> list[str]:
    """Download what is absent; return a line for each download that failed."""
    needed = list(needed)
    mirror.mkdir(parents=True, exist_ok=True)
    wanted = [(name, rev, "dataset", name) for name, rev in _repositories(needed)]
    wanted += [
        (f"evaluate-metric/{metric.partition('/')[2]}", None, "space", metric)
        for metric in _metrics(needed)
    ]
    failures = []
    for name, revision, kind, place in wanted:
        print(f"fetching {name}", flush=True)
        try:
            huggingface_hub.snapshot_download(
                name, repo_type=kind, revision=revision, local_dir=mirror / place
            )
        except (HfHubHTTPError, OSError, ValueError) as error:
            failures.append(f"{name} was not fetched: {type(error).__name__}: {error}")
    return failures


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
