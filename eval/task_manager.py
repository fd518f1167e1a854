"""lm-eval's index of tasks: built once per process, read without building a task."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from lm_eval import tasks
from lm_eval.config.group import GroupConfig
from lm_eval.tasks import TaskManager as TaskManager
from lm_eval.tasks._index import Entry

from eval.hf_offline import go_offline

_OF_GROUPS = frozenset(f.name for f in fields(GroupConfig)) | {"tag", "task_list"}
"""Entries of a group's file that are not handed down to its tasks."""


def task_manager(include_path: Path | None, names: Iterable[str]) -> TaskManager:
    """Return an index that knows the names, lm-eval's own tasks only if needed.

    An index of lm-eval's own tasks takes 5 s to build. Each index is kept for the life of the
    process; one of a folder is built anew when a file in the folder has changed.

    Args:
        include_path: Folder of YAML files of tasks, or None.
        names: Tasks, groups and tags that will be asked for. Unknown ones are no error here.
    """
    go_offline()
    if include_path is None:
        return _manager(None, with_defaults=True, _state=())
    state = _modified(include_path)
    own = _manager(include_path, with_defaults=False, _state=state)
    if _knows(own, names):
        return own
    return _manager(include_path, with_defaults=True, _state=state)


def _knows(manager: TaskManager, names: Iterable[str]) -> bool:
    """True if an index has the names and every task of the groups among them."""
    try:
        for name in names:
            leaf_changes(manager, name)
    except ValueError:
        return False
    return True


def leaves(manager: TaskManager, name: str) -> list[str]:
    """List the tasks of a task, group or tag, in lm-eval's order, each once.

    Raises:
        ValueError: If a name is unknown, or a group defines a task within itself.
    """
    return list(leaf_changes(manager, name))


def leaf_changes(manager: TaskManager, name: str) -> dict[str, dict[str, Any]]:
    """Map each task of a group to the entries that the group changes in the task's YAML.

    ``openllm``, for instance, asks arc_challenge with ``num_fewshot`` 25. Nothing is built or
    imported. A task that is in several subgroups has the changes of the last.

    Raises:
        ValueError: If a name is unknown, or a group defines a task within itself.
    """
    return dict(_walk(manager, name, {}))


def task_yaml(manager: TaskManager, task: str) -> Mapping[str, Any]:
    """Return a task's YAML, includes resolved; ``!function`` entries are absolute paths.

    Raises:
        ValueError: If there is no such task, or it is a group or a tag.
    """
    entry = _entry(manager, task)
    if entry.kind.name not in ("TASK", "PY_TASK"):
        kind = entry.kind.name.lower()
        raise ValueError(f"expected a task, got the {kind} {task}: {leaves(manager, task)}")
    cfg: Mapping[str, Any] = entry.cfg
    return cfg


def is_built_in(manager: TaskManager, task: str) -> bool:
    """True if the task comes with lm-eval, False if it is of an ``include_path``."""
    return Path(tasks.__file__).parent in Path(_entry(manager, task).yaml_path).parents


@cache
def _manager(
    include_path: Path | None,
    *,
    with_defaults: bool,
    _state: tuple[tuple[str, int], ...],
) -> TaskManager:
    folder = None if include_path is None else str(include_path)
    return TaskManager(include_defaults=with_defaults, include_path=folder)


def _modified(folder: Path) -> tuple[tuple[str, int], ...]:
    files = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return tuple(sorted((str(path), path.stat().st_mtime_ns) for path in files))


def _entry(manager: TaskManager, name: str) -> Entry:
    if name not in manager.task_index:
        close = difflib.get_close_matches(name, manager.task_index, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"expected a task, group or tag of lm-eval, got {name}{hint}")
    return manager.task_index[name]


_Leaves = Iterator[tuple[str, dict[str, Any]]]


def _walk(manager: TaskManager, name: str, changes: dict[str, Any]) -> _Leaves:
    """Yield leaves as lm-eval builds them, see ``lm_eval.tasks._factory``."""
    entry = _entry(manager, name)
    if entry.kind.name == "GROUP":
        yield from _walk_group(manager, entry.cfg, changes)
    elif entry.kind.name == "TAG":
        yield from ((task, changes) for task in sorted(entry.tags))
    else:
        yield name, changes


def _walk_group(
    manager: TaskManager, group: Mapping[str, Any], changes: dict[str, Any]
) -> _Leaves:
    """Yield the leaves of a group; its own entries give way to those of the group above."""
    handed_down = {k: v for k, v in group.items() if k not in _OF_GROUPS} | changes
    for item in group["task"]:
        member = {"task": item} if isinstance(item, str) else item
        own = {k: v for k, v in member.items() if k not in ("task", "group")}
        if "group" in member and member["group"] not in manager.task_index:
            yield from _walk_group(manager, member, handed_down)
        elif "group" in member:
            yield from _walk(manager, member["group"], handed_down | own)
        elif member.get("task") in manager.task_index:
            yield from _walk(manager, member["task"], handed_down | own)
        else:
            raise ValueError(
                f"group {group['group']} has a member that is no task with a file of its own, "
                f"{member.get('task') or member.get('dataset_path')}; name the tasks you want instead of the group"
            )
