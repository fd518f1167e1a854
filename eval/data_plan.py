"""Plan of a suite's data: where each data set is, what is missing, the commands that get it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from eval.datasets_dir import GATED, DataSet, data_of, download_command
from eval.suite import Suite
from eval.task_extras import how_to_get
from eval.task_manager import leaf_changes, task_manager, task_yaml
from eval.task_options import shots_of

_PLACES = {"mirror": "mirror", "cache": "Hub's cache", "hub": "Hub", "task": "own files"}
_N_NAMES = 4
"""Most names in a cell of the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Data of one task of a suite."""

    name: str
    """Task or group as the suite names it."""
    task: str
    data_set: DataSet
    runs_code: bool
    """True if scoring the task runs programs that the model wrote."""


def needs(suite: Suite, mirror: Path | None) -> list[Need]:
    """Find the data of a suite's tasks, groups expanded; nothing is built or downloaded.

    Args:
        suite: The suite; its ``datasets_dir`` is not read.
        mirror: Folder of data sets, which need not exist; None if there is none.

    Raises:
        ValueError: If a task is unknown.
    """
    manager = task_manager(suite.include_path, [task.task for task in suite.tasks])
    existing = mirror if mirror is not None and mirror.is_dir() else None
    split = {} if suite.split is None else {"test_split": suite.split}
    needed = []
    for task in suite.tasks:
        for leaf, changes in leaf_changes(manager, task.task).items():
            n_shots = shots_of(task, suite, {**task_yaml(manager, leaf), **changes})
            shots = {} if n_shots is None else {"num_fewshot": n_shots}
            need = Need(
                name=task.task,
                task=leaf,
                data_set=data_of(manager, leaf, existing, {**changes, **shots, **split}),
                runs_code=bool(task_yaml(manager, leaf).get("unsafe_code")),
            )
            needed.append(need)
    return needed


def data_table(needed: Iterable[Need], title: str) -> Table:
    """One row per data set: the tasks and groups that read it, where it is, what they need."""
    table = Table(title=title, title_justify="left")
    for header in ("task or group", "data set", "where", "needs"):
        table.add_column(header, overflow="fold")
    by_data_set: dict[str, list[Need]] = {}
    for need in needed:
        by_data_set.setdefault(need.data_set.name or need.name, []).append(need)
    for group in by_data_set.values():
        names = list(dict.fromkeys(need.name for need in group))
        more = [f"{len(names) - _N_NAMES} more"] if len(names) > _N_NAMES else []
        table.add_row(
            ", ".join(names[:_N_NAMES] + more),
            group[0].data_set.name or "",
            _states(group),
            ", ".join(dict.fromkeys(r for need in group for r in _requirements(need))),
        )
    return table


def plan_data(suite: Suite) -> tuple[Table, list[str]]:
    """Plan the data of a suite, with the mirror of its ``datasets_dir``.

    Returns:
        The table, and lines for below it: the commands that get what is missing, and why data
        cannot be used.

    Raises:
        ValueError: If a task is unknown.
    """
    mirror = suite.datasets_dir
    needed = needs(suite, mirror)
    place = "no mirror: datasets_dir is not set" if mirror is None else f"mirror {mirror}"
    missing = [need for need in needed if _is_missing(need.data_set)]
    extras = {extra for need in needed for extra in need.data_set.extras}
    lines = [*commands(missing, mirror), *how_to_get(extras, mirror), *problems(needed)]
    gated = {str(n.data_set.name) for n in missing} & GATED
    lines += [
        f"{name} is gated: accept its terms on https://huggingface.co/datasets/{name}, then "
        "`hf auth login`"
        for name in sorted(gated)
    ]
    if running := list(dict.fromkeys(need.name for need in needed if need.runs_code)):
        lines.append(
            f"{', '.join(running)}: programs that the model wrote are run, only with "
            "suite.allow_code_execution=true"
        )
    return data_table(needed, f"Data of suite {suite.name} ({place})"), lines


def commands(missing: Iterable[Need], mirror: Path | None) -> list[str]:
    """Shell commands that download data sets, each once."""
    repositories = dict.fromkeys((n.data_set.name, n.data_set.revision) for n in missing)
    return [download_command(str(name), mirror, rev) for name, rev in repositories]


def problems(needed: Iterable[Need]) -> list[str]:
    """Why data cannot be used that a download does not mend: one line per data set."""
    lines: dict[str, str] = {}
    for need in needed:
        problem = need.data_set.problem
        if problem is not None and not _is_missing(need.data_set):
            lines.setdefault(need.data_set.name or need.name, problem)
    return list(lines.values())


def is_begun(data_set: DataSet) -> bool:
    """True if a download into the mirror was begun and not finished."""
    if data_set.problem is None or data_set.folder is None:
        return False
    return (data_set.folder / ".cache/huggingface").is_dir()


def _is_missing(data_set: DataSet) -> bool:
    """True if the data are nowhere on this machine, or only begun, and the Hub has them."""
    if data_set.name is None or data_set.problem is None:
        return False
    return data_set.place is None or is_begun(data_set)


def _states(group: Iterable[Need]) -> str:
    """Name the place of a data set; of several, each with its number of tasks."""
    counts = Counter(_state(need.data_set) for need in group)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{state}: {n}" for state, n in counts.items())


def _state(data_set: DataSet) -> str:
    if _is_missing(data_set):
        return "missing"
    return "unusable" if data_set.problem is not None else _PLACES[str(data_set.place)]


def _requirements(need: Need) -> list[str]:
    """Packages (by the last part of an address), metrics and permissions."""
    extras = [e.rpartition("/")[2] if "://" in e else e for e in need.data_set.extras]
    gated = ["access (gated)"] if need.data_set.name in GATED else []
    return [*extras, *gated, *(["code execution"] if need.runs_code else [])]
