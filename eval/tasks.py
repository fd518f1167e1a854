"""A suite's tasks, built by lm-eval and checked before anything is merged."""

import difflib
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import yaml

from eval.hf_offline import go_offline

go_offline()  # the libraries below read their switches when they are imported

from datasets import disable_progress_bars  # noqa: E402
from datasets.exceptions import DatasetsError  # noqa: E402
from lm_eval import utils as lm_eval_utils  # noqa: E402
from lm_eval.api import task as lm_eval_task  # noqa: E402
from lm_eval.api.group import Group  # noqa: E402
from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY  # noqa: E402
from lm_eval.config.group import GroupConfig  # noqa: E402
from lm_eval.tasks._yaml_loader import load_yaml  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

from eval.datasets_dir import DataSet, content_hash, data_of, overrides  # noqa: E402
from eval.headline_metric import resolve, stated_metric  # noqa: E402
from eval.suite import TASK_KINDS, Suite, SuiteTask  # noqa: E402
from eval.task_extras import how_to_get, local_extras  # noqa: E402
from eval.task_manager import (  # noqa: E402
    TaskManager,
    leaf_changes,
    task_manager,
    task_yaml,
)
from eval.task_options import (  # noqa: E402
    check_code,
    code_execution,
    generation_entries,
    shots_of,
)

_NO_TQDM = partial(lm_eval_task.tqdm, disable=True)
_EXPECTED_WARNINGS = (
    "Custom kwargs can be passed",
    "`pretrained` model kwarg is not of type",
    "Passed an already-initialized model",
    "using default aggregation",
    "using default higher_is_better",
    "No `generation_kwargs` specified",
    "Token indices sequence length is longer",  # lm-eval cuts it, and says so
)
_QUIETED = (
    "eval.harness",
    "lm_eval.api.task",
    "lm_eval.config.task",
    "lm_eval.models.huggingface",
    "lm_eval.models.utils",
    "lm_eval.models.utils_hf",
    "transformers.tokenization_utils_base",
)
"""Loggers whose warnings are shown once each, whatever numbers they name."""
_shown: set[str] = set()

_Metric = tuple[str | None, str | None]
"""Metric and score of a task."""


def expand(suite: Suite) -> Suite:
    """Replace groups by their tasks, and pin the data that tasks read from the Hub.

    A task of a group is in the group's domain. Nothing is built, but for tasks whose data must be
    downloaded first.

    Returns:
        The suite with ``group`` set in tasks of groups, and ``data``; the same one where all tasks
        and their data are one's own.

    Raises:
        ValueError: If a name is unknown, the tasks of a group state several metrics, data cannot be
            found, a package or metric is missing, a task is named twice, or one runs code and the
            suite does not allow it.
    """
    if suite.has_own_data:
        return suite
    prepare_lm_eval()
    manager = _manager_of(suite)
    tasks = [
        (replace(entry, task=name, group=None if name == entry.task else entry.task), changes)
        for entry in suite.tasks
        for name, changes in _leaf_changes(manager, entry.task).items()
    ]
    _check_groups((t, _stated(t, manager, changes)) for t, changes in tasks)
    data = []
    for task, changes in tasks:
        name, file = task.task, task_yaml(manager, task.task)
        check_code(name, file, suite)
        wanted = changes | _changes(task, suite, {**file, **changes})
        data_set = data_of(manager, name, suite.datasets_dir, wanted)
        _check_data_set(task, data_set, suite.datasets_dir)
        if data_set.place == "hub":
            _build(task, manager, suite)  # downloads it
        if data_set.place != "task":
            data.append((name, content_hash(data_set)))
    return replace(suite, tasks=tuple(task for task, _ in tasks), data=tuple(data))


def _stated(
    task: SuiteTask, manager: TaskManager, changes: Mapping[str, Any]
) -> _Metric | None:
    """Metric and score that a task's YAML states; a task of no group is not asked."""
    if task.group is None:
        return None
    return stated_metric(task, {**task_yaml(manager, task.task), **changes})


def build_tasks(suite: Suite) -> dict[str, Any]:
    """Build a suite's tasks and read their data, once per process.

    Args:
        suite: From ``expand``.

    Returns:
        lm-eval's task objects by name, in the suite's order.

    Raises:
        ValueError: If a task is unknown, its file or a template in it is wrong, its data cannot
            be read, or the tasks of a group have several metrics.
    """
    prepare_lm_eval()
    return _tasks(suite, suite.fingerprint())


def group_of(suite: Suite, name: str) -> Group:
    """Return lm-eval's group of this name, without its tasks: aliases and aggregation."""
    manager = _manager_of(suite)
    entries = manager.task_index[name].cfg or {}
    known = {field.name for field in fields(GroupConfig)}
    own = {key: value for key, value in entries.items() if key in known} | {"group": name}
    try:
        return Group.from_config(GroupConfig(**own))
    except (ValueError, TypeError) as error:
        raise ValueError(f"group {name} cannot be read: {_message(error)}") from error


def _manager_of(suite: Suite) -> TaskManager:
    """Return the index of tasks for a suite; files that are no YAML are an error."""
    if suite.include_path is not None:
        _check_files(suite.include_path)
    return task_manager(suite.include_path, [task.group or task.task for task in suite.tasks])


@cache
def _tasks(suite: Suite, _fingerprint: str) -> dict[str, Any]:
    """Build a suite's tasks, once per process and content of their files."""
    manager = _manager_of(suite)
    built = {task.task: _build(task, manager, suite) for task in suite.tasks}
    _check_groups((task, _headline(resolve(task, built[task.task]))) for task in suite.tasks)
    for group in sorted({task.group for task in suite.tasks if task.group is not None}):
        group_of(suite, group)  # its own aggregations are read here, before a merge
    _check_shares(built, suite)
    return built


def _headline(task: SuiteTask) -> _Metric:
    return task.metric, task.score


def _check_groups(metrics: Iterable[tuple[SuiteTask, _Metric | None]]) -> None:
    """Refuse a group whose tasks have several metrics; None is one that is not known yet."""
    of_groups: dict[str, dict[_Metric, str]] = defaultdict(dict)
    for task, metric in metrics:
        if task.group is not None and metric is not None:
            of_groups[task.group].setdefault(metric, task.task)
    for group, by_metric in of_groups.items():
        if len(by_metric) > 1:
            got = ", ".join(
                f"{m} ({score}) of {task}" for (m, score), task in by_metric.items()
            )
            raise ValueError(
                f"the tasks of group {group} must have one metric, got {got}: name the tasks "
                "instead of the group"
            )


def _check_shares(built: Mapping[str, Any], suite: Suite) -> None:
    """Refuse a task that has no document for one of the evaluator's processes."""
    for name, task in built.items() if suite.evaluator.processes > 1 else ():
        n = min(len(task.eval_docs), suite.limit or len(task.eval_docs))
        if n < suite.evaluator.processes:
            raise ValueError(
                f"evaluator.processes must be at most the number of documents of every task, "
                f"got {suite.evaluator.processes} for the {n} of {name}"
            )


def _build(task: SuiteTask, manager: TaskManager, suite: Suite) -> Any:  # noqa: ANN401
    """Build one lm-eval task with the suite's options; refuse unsupported kinds."""
    _check_entry(task, manager)
    check_code(task.task, task_yaml(manager, task.task), suite)
    built = _load(task, manager, suite)
    _check_aggregations(task.task, built)
    if built.OUTPUT_TYPE not in TASK_KINDS.values():
        raise ValueError(
            f"a task must be one of {sorted(TASK_KINDS.values())}, {task.task} is "
            f"{built.OUTPUT_TYPE}"
        )
    if task.kind is not None and TASK_KINDS[task.kind] != built.OUTPUT_TYPE:
        raise ValueError(
            f"{task.task} must be {TASK_KINDS[task.kind]}, it is {built.OUTPUT_TYPE}"
        )
    if suite.split is not None:
        if suite.split not in built.dataset:
            raise ValueError(
                f"{task.task} has splits {sorted(built.dataset)}, got {suite.split!r}"
            )
        built.set_config("test_split", suite.split)
    entries = {"num_fewshot": built.config.num_fewshot, "output_type": built.OUTPUT_TYPE}
    shots = shots_of(task, suite, entries)
    if shots is not None:
        built.set_config("num_fewshot", shots)
    if suite.gen_kwargs and built.OUTPUT_TYPE == "generate_until":
        own = built.config.generation_kwargs or {}
        built.set_config("generation_kwargs", generation_entries(task.task, own, suite))
    return built


def _check_aggregations(task: str, built: Any) -> None:  # noqa: ANN401
    """Refuse aggregations over documents that lm-eval would miss when all is scored."""
    if unknown := sorted(m for m, a in built.aggregation().items() if not callable(a)):
        raise ValueError(
            f"{task}: the aggregation of {', '.join(unknown)} is none that lm-eval knows; "
            f"expected one of {sorted(map(str, AGGREGATION_REGISTRY))}"
        )


def _load(task: SuiteTask, manager: TaskManager, suite: Suite) -> Any:  # noqa: ANN401
    """Let lm-eval build a task from its file and its group's, and read its data."""
    changes = {} if task.group is None else _leaf_changes(manager, task.group)[task.task]
    file = task_yaml(manager, task.task)
    wanted = {**changes, **_changes(task, suite, {**file, **changes})}
    entries = {**changes, **overrides(manager, task.task, suite.datasets_dir, wanted)}
    spec = {"group": "suite", "task": [{"task": task.task, **entries}]}
    try:
        with code_execution(suite), local_extras(suite.datasets_dir):
            return manager.load(spec)["tasks"][task.task]
    except (ConnectionError, FileNotFoundError, DatasetsError) as error:
        raise ValueError(f"the data of task {task.task} cannot be read: {error}") from error
    except Exception as error:  # any mistake in the task's file
        raise ValueError(f"task {task.task} cannot be built: {_message(error)}") from error


def _changes(task: SuiteTask, suite: Suite, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a task's YAML that decide which splits are read and that the suite changes."""
    changes = {"num_fewshot": shots_of(task, suite, entries), "test_split": suite.split}
    return {key: value for key, value in changes.items() if value is not None}


def _leaf_changes(manager: TaskManager, name: str) -> dict[str, dict[str, Any]]:
    """Map each task of a group to the entries the group changes; unknown names are errors."""
    if name not in manager.task_index:
        close = difflib.get_close_matches(name, manager.task_index, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        folder = f"{manager.include_path} and " if manager.include_path else ""
        raise ValueError(f"task {name} is unknown among {folder}lm-eval's own tasks{hint}")
    return leaf_changes(manager, name)


def _check_data_set(task: SuiteTask, data_set: DataSet, datasets_dir: Path | None) -> None:
    """Refuse a task whose data, packages or metrics are not there."""
    reasons = [] if data_set.problem is None else [data_set.problem]
    if data_set.extras:
        ways = "; ".join(how_to_get(data_set.extras, datasets_dir))
        reasons.append(f"task {task.task} needs {', '.join(data_set.extras)}: {ways}")
    if reasons and task.group is not None:
        reasons.append(f"to do without it, name the other tasks of {task.group}")
    if reasons:
        raise ValueError("; ".join([*reasons, "plan=true lists all that the suite needs"]))


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _check_files(folder: Path) -> None:
    """Demand YAML that can be read: lm-eval passes over other files without a word."""
    for path in sorted(folder.rglob("*.yaml")):
        try:
            load_yaml(path, resolve_func=False)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not readable YAML: {error}") from error


def _check_entry(task: SuiteTask, manager: TaskManager) -> None:
    """Refuse unknown tasks and unknown metrics before any network access."""
    _leaf_changes(manager, task.task)
    config = manager.task_index[task.task].cfg or {}
    if "process_results" in config:
        return
    names = [str(metric["metric"]) for metric in config.get("metric_list") or []]
    if unknown := [n for n in names if n not in METRIC_REGISTRY and "/" not in n]:
        raise ValueError(
            f"{task.task} has metrics {unknown} that lm-eval does not know; "
            f"expected metrics from {sorted(METRIC_REGISTRY)}"
        )


_compiled = lru_cache(maxsize=1024)(lm_eval_utils.env.from_string)


def _apply_template(template: str, doc: Mapping[str, Any]) -> str:
    """Replace lm-eval's function, which compiles the template anew for every document."""
    return str(_compiled(template).render(**doc))


def prepare_lm_eval() -> None:
    """Silence lm-eval's expected warnings, messages and bars; cache its templates."""
    lm_eval_utils.apply_template = _apply_template
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    for name in _QUIETED:
        logging.getLogger(name).addFilter(_is_news)  # added once, however often this is called
    lm_eval_task.tqdm = _NO_TQDM
    disable_progress_bar()
    disable_progress_bars()


def _is_news(record: logging.LogRecord) -> bool:
    """False for expected warnings, and for those that were shown with other numbers."""
    text = re.sub(r"\d+", "#", record.getMessage())
    if text in _shown or any(expected in text for expected in _EXPECTED_WARNINGS):
        return False
    _shown.add(text)
    return True
