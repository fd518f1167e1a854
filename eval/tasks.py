"""A suite's tasks, built by lm-eval and checked before anything is merged."""

import difflib
import logging
from collections.abc import Mapping
from dataclasses import replace
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
from lm_eval.api.registry import METRIC_REGISTRY  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from lm_eval.tasks._yaml_loader import load_yaml  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

from eval.suite import TASK_KINDS, Suite, SuiteTask  # noqa: E402

_METRICS = ("bits_per_byte", "acc_norm", "acc", "exact_match")
"""Headline metrics in order of preference, for a suite that names none."""

_NO_TQDM = partial(lm_eval_task.tqdm, disable=True)
_EXPECTED_WARNINGS = (
    "Custom kwargs can be passed",
    "`pretrained` model kwarg is not of type",
    "Passed an already-initialized model",
    "using default aggregation",
    "using default higher_is_better",
    "No `generation_kwargs` specified",
)

_LOCAL_FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""Values of ``dataset_path`` for files of one's own."""


def build_tasks(suite: Suite) -> dict[str, Any]:
    """Build a suite's tasks and read their data, once per process.

    Returns:
        lm-eval's task objects by name, in the suite's order.

    Raises:
        ValueError: If a task is unknown, its file or a template in it is wrong, or its data
            cannot be read.
    """
    prepare_lm_eval()
    return _tasks(suite, suite.fingerprint())


@cache
def _tasks(suite: Suite, _fingerprint: str) -> dict[str, Any]:
    """Build a suite's tasks, once per process and content of their files."""
    folder = None if suite.include_path is None else str(suite.include_path)
    if suite.include_path is not None:
        _check_files(suite.include_path)
    manager = TaskManager(include_defaults=folder is None, include_path=folder)
    if folder is not None and any(t.task not in manager.all_tasks for t in suite.tasks):
        manager = TaskManager(include_defaults=True, include_path=folder)  # takes seconds
    return {task.task: _build(task, manager, suite.split) for task in suite.tasks}


def _build(task: SuiteTask, manager: TaskManager, split: str | None) -> Any:  # noqa: ANN401
    """Build one lm-eval task with the suite's split and shots; refuse unsupported kinds."""
    _check_entry(task, manager)
    built = _load(task.task, manager)
    if built.OUTPUT_TYPE not in TASK_KINDS.values():
        raise ValueError(
            f"a task must be one of {sorted(TASK_KINDS.values())}, {task.task} is "
            f"{built.OUTPUT_TYPE}"
        )
    if task.kind is not None and TASK_KINDS[task.kind] != built.OUTPUT_TYPE:
        raise ValueError(
            f"{task.task} must be {TASK_KINDS[task.kind]}, it is {built.OUTPUT_TYPE}"
        )
    if split is not None:
        if split not in built.dataset:
            raise ValueError(f"{task.task} has splits {sorted(built.dataset)}, got {split!r}")
        built.set_config("test_split", split)
    if task.num_fewshot is not None:
        built.set_config("num_fewshot", task.num_fewshot)
    return built


def _load(name: str, manager: TaskManager) -> Any:  # noqa: ANN401 (an lm-eval task)
    """Let lm-eval build a task from its file, and read its data."""
    config = manager.task_index[name].cfg or {}
    try:
        return manager.load([name])["tasks"][name]
    except (ConnectionError, FileNotFoundError, DatasetsError) as error:
        local = config.get("dataset_path") in _LOCAL_FORMATS
        hint = "" if local else "; SEME_ONLINE=1 in the environment lets it be downloaded"
        raise ValueError(f"the data of task {name} cannot be read: {error}{hint}") from error
    except Exception as error:  # any mistake in the task's file
        raise ValueError(f"task {name} cannot be built: {_message(error)}") from error


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _check_files(folder: Path) -> None:
    """Demand YAML that can be read: lm-eval passes over other files without a word."""
    for path in sorted(folder.rglob("*.yaml")):
        try:
            load_yaml(path, resolve_func=False)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not readable YAML: {error}") from error


def resolve(task: SuiteTask, built: Any) -> SuiteTask:  # noqa: ANN401 (an lm-eval task)
    """Fill in kind, metric, score and filter where the suite leaves them to the task.

    The metric is the first of ``_METRICS`` that the task has, else its first; the filter is the
    only one, else the one called strict, else the first.
    """
    kind = next(kind for kind, output in TASK_KINDS.items() if output == built.OUTPUT_TYPE)
    names = list(built.aggregation())
    preferred = [name for name in _METRICS if name in names]
    metric = task.metric or (preferred or names)[0]
    filters = [str(ensemble.name) for ensemble in built._filters] or ["none"]
    strict = [name for name in filters if "strict" in name]
    return replace(
        task,
        kind=task.kind or kind,
        metric=metric,
        score=task.score or ("byte_likelihood" if metric == "bits_per_byte" else "raw"),
        filter=task.filter or (strict or filters)[0],
    )


def _check_entry(task: SuiteTask, manager: TaskManager) -> None:
    """Refuse groups, unknown tasks and unknown metrics before any network access."""
    if task.task not in manager.all_subtasks:
        kind = "a group or tag: name its tasks" if task.task in manager.all_tasks else "unknown"
        close = difflib.get_close_matches(task.task, manager.all_subtasks, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        where = f"{manager.include_path or 'no folder'} and lm-eval's own"
        raise ValueError(f"task {task.task} is {kind} (tasks are from {where}){hint}")
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
    for name in ("lm_eval.api.task", "lm_eval.config.task", "lm_eval.models.huggingface"):
        logger = logging.getLogger(name)
        logger.addFilter(_is_unexpected)  # added once, however often this is called
    lm_eval_task.tqdm = _NO_TQDM
    disable_progress_bar()
    disable_progress_bars()


def _is_unexpected(record: logging.LogRecord) -> bool:
    return not any(text in record.getMessage() for text in _EXPECTED_WARNINGS)
