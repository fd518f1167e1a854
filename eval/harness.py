"""Score a model folder on a suite, in process, through lm-eval."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.hf_offline import go_offline

go_offline()  # the libraries below read their switches when they are imported

import torch  # noqa: E402
from lm_eval import evaluator  # noqa: E402
from lm_eval.api.group import Group  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from eval.evaluator import HF  # noqa: E402
from eval.headline_metric import resolve  # noqa: E402
from eval.metric_kinds import REPORTED, TaskMetric  # noqa: E402
from eval.postponed import completed, postponed_errors  # noqa: E402
from eval.records import Score  # noqa: E402
from eval.sample_file import Sample  # noqa: E402
from eval.scored import Scored, scored_from  # noqa: E402
from eval.suite import Suite, SuiteTask  # noqa: E402
from eval.suite_lm import SuiteLM  # noqa: E402
from eval.task_extras import local_extras  # noqa: E402
from eval.task_metrics import (  # noqa: E402
    check_metric,
    metric_names,
    other_metrics,
    samples_of,
    score_of,
)
from eval.task_options import code_execution  # noqa: E402
from eval.tasks import build_tasks, group_of  # noqa: E402
from eval.workers import run_in_workers  # noqa: E402

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores and samples of a model on a suite; mappings follow the suite's order."""

    tasks: tuple[SuiteTask, ...]
    """Tasks of the suite; entries that are None in the suite are filled in."""
    scores: dict[str, Score]
    """Scores by task, without tasks that are in no mean."""
    samples: dict[str, list[Sample]]
    """Samples of the tasks in ``scores``."""
    metrics: dict[str, dict[str, TaskMetric]]
    """Task to ``metric,filter`` to its metrics that are in no mean; groups of such tasks too."""
    groups: dict[str, dict[str, float]]
    """Group of tasks to the shares of its tasks in its score; they add up to 1."""
    caps: dict[str, int]
    """Task to the most tokens of an answer, where the model reads too few for the task's own."""
    versions: dict[str, Any]
    """Task to the version in its lm-eval file, None where it states none."""


def evaluate(
    model: Path, suite: Suite, *, device: str, seed: int, progress: bool | str
) -> Evaluation:
    """Score a model folder on every task of a suite: :func:`score`, :func:`evaluation_of`."""
    scored = score(model, suite, device=device, seed=seed, progress=progress)
    return evaluation_of(suite, scored)


def score(model: Path, suite: Suite, *, device: str, seed: int, progress: bool | str) -> Scored:
    """Run a model folder on every task of a suite.

    Args:
        model: Folder with weights, configuration and tokenizer.
        suite: The tasks, built once per process. Entries that are None are the task's own.
        device: A torch device; on the CPU the model runs in float32 unless the suite says
            otherwise.
        seed: Seed of few-shot draws and of sampled generation.
        progress: Show a progress bar; a text, rich's markup, is put before it.

    Raises:
        ValueError: If the model folder is incomplete or not finite, a task is unknown, or one
            row does not fit the memory.
        RuntimeError: If a process of the evaluator failed.
    """
    job: dict[str, Any] = {"suite": suite, "seed": seed, "progress": progress}
    job["model"] = model.resolve()
    if suite.evaluator.in_workers:
        scored = run_in_workers(
            score_here, job, device=device, processes=suite.evaluator.processes
        )
    else:
        scored = score_here(**job, device=device)
    assert isinstance(scored, Scored)
    return scored


def score_here(
    model: Path,
    suite: Suite,
    *,
    device: str,
    seed: int,
    progress: bool | str,
    accelerator: Any = None,  # noqa: ANN401 (accelerate's types are not followed)
) -> Scored | None:
    """Run a model folder in this process, as ``score`` does.

    Args:
        model: Absolute folder.
        suite: The tasks.
        device: A torch device.
        seed: Seed of few-shot draws and of sampled generation.
        progress: Show a progress bar; a text, rich's markup, is put before it.
        accelerator: Of a process that scores its share of the documents; None scores all.

    Returns:
        The scores; None in all processes but the first.
    """
    tasks = build_tasks(suite)
    for task in tasks.values():
        task.set_fewshot_seed(seed)
    devices = [] if device == "cpu" else [torch.device(device)]
    random_state = torch.random.fork_rng(devices)
    with _bar(progress) as bar, random_state, torch.inference_mode():
        torch.manual_seed(seed)
        if suite.evaluator.name == HF:
            lm = SuiteLM(model, suite, device=device, bar=bar, accelerator=accelerator)
        else:
            from eval.suite_vllm import SuiteVLLM  # noqa: PLC0415 (vllm is an extra)

            lm = SuiteVLLM(model, suite, device=device, seed=seed, progress=bool(progress))
        with (
            code_execution(suite),
            local_extras(suite.datasets_dir),
            postponed_errors(tasks.values()),
        ):
            results = evaluator.evaluate(
                lm=lm,
                task_dict={"tasks": tasks},
                limit=suite.limit,
                bootstrap_iters=0,  # errors come from the samples instead
                log_samples=True,
                system_instruction=suite.system_instruction,
                apply_chat_template=suite.chat_template,
                fewshot_as_multiturn=suite.multiturn,
                confirm_run_unsafe_code=suite.allow_code_execution,
            )
    if results is None:
        return None
    return scored_from(results, caps=lm.caps, max_length=lm.max_length)


def evaluation_of(suite: Suite, scored: Scored) -> Evaluation:
    """Turn lm-eval's results into scores, samples and metrics.

    Raises:
        ValueError: If a metric is unknown, or a score is not a fraction.
    """
    tasks = build_tasks(suite)
    scored = completed(scored, tasks)
    logged, reported = scored.samples, scored.results
    resolved = tuple(
        resolve(task, tasks[task.task], metric_names(logged[task.task])) for task in suite.tasks
    )
    for task in resolved:
        check_metric(task, logged[task.task])
    in_mean = [task for task in resolved if task.score != REPORTED]
    samples = {t.task: samples_of(t, logged[t.task]) for t in in_mean}
    scores = {t.task: score_of(t, samples[t.task], reported[t.task]) for t in in_mean}
    metrics = {
        task.task: other_metrics(
            task,
            logged[task.task],
            reported[task.task],
            tasks[task.task].aggregation(),
            tasks[task.task].higher_is_better(),
        )
        for task in resolved
    }
    stated = {t.task: scored.versions.get(t.task) for t in suite.tasks}
    versions = {task: None if v == "N/A" else v for task, v in stated.items()}
    for name, cap in scored.caps.items():
        _logger.warning(
            "%s: answers are cut at %d tokens: the model reads %d, prompt and answer together",
            name,
            cap,
            scored.max_length,
        )
    metrics |= {
        name: _group_metric(_group(suite, name, tasks), of_group, metrics, reported)
        for name, of_group in _members(set(resolved) - set(in_mean), resolved).items()
    }
    return Evaluation(
        tasks=resolved,
        scores=scores,
        samples=samples,
        metrics={task: of_task for task, of_task in metrics.items() if of_task},
        versions=versions,
        caps=scored.caps,
        groups={
            name: _shares(_group(suite, name, tasks), of_group, scores, reported)
            for name, of_group in _members(set(in_mean), resolved).items()
        },
    )


def _members(
    chosen: Set[SuiteTask], ordered: Sequence[SuiteTask]
) -> dict[str, list[SuiteTask]]:
    """Group to its tasks among the chosen, in the suite's order."""
    members: dict[str, list[SuiteTask]] = defaultdict(list)
    for task in ordered:
        if task.group is not None and task in chosen:
            members[task.group].append(task)
    return dict(members)


def _group(suite: Suite, name: str, built: Mapping[str, Any]) -> Group:
    """Return lm-eval's group with the tasks of the suite that it was expanded to."""
    group = group_of(suite, name)
    for task in suite.tasks:
        if task.group == name:
            group.add(built[task.task])
    return group


def _shares(
    group: Group,
    tasks: Sequence[SuiteTask],
    scores: Mapping[str, Score],
    reported: Mapping[str, Any],
) -> dict[str, float]:
    """Shares of a group's tasks in its score, by lm-eval's own rule, which is checked.

    They are equal, or by the number of documents where the group says ``weight_by_size`` for
    the metric; a group that aggregates nothing is averaged over its tasks.
    """
    metric, filter_name = tasks[0].metric, tasks[0].filter
    rules = [rule for rule in group.aggregate_metric_list or [] if rule.metric == metric]
    by_size = bool(rules) and rules[0].weight_by_size
    sizes = {task.task: scores[task.task].n if by_size else 1 for task in tasks}
    shares = {name: size / sum(sizes.values()) for name, size in sizes.items()}
    if rules:
        mean = math.fsum(share * scores[name].raw for name, share in shares.items())
        expected = group.aggregate(reported).get(f"{metric},{filter_name}")
        if expected is not None and not math.isclose(mean, expected, rel_tol=1e-9):
            raise ValueError(
                f"group {group.name}: the mean of {metric} over its {len(tasks)} tasks is "
                f"{mean}; lm-eval reports {expected}"
            )
    return shares


def _group_metric(
    group: Group,
    tasks: Sequence[SuiteTask],
    metrics: Mapping[str, Mapping[str, TaskMetric]],
    reported: Mapping[str, Any],
) -> dict[str, TaskMetric]:
    """Metric of a group whose tasks are in no mean, by lm-eval's own rule.

    Its error is by lm-eval's rule too, from those of the tasks. Empty where the group does not
    aggregate the metric, or a task has it under another filter.
    """
    metric, filter_name = tasks[0].metric, tasks[0].filter
    key = f"{metric},{filter_name}"
    aggregated = {rule.metric for rule in group.aggregate_metric_list or []}
    if metric not in aggregated or any(key not in metrics[task.task] for task in tasks):
        return {}
    own = {task.task: metrics[task.task][key] for task in tasks}
    errors = {
        name: {} if one.stderr is None else {f"{metric}_stderr,{filter_name}": one.stderr}
        for name, one in own.items()
    }
    values = group.aggregate({name: {**reported[name], **errors[name]} for name in own})
    value, error = values.get(key), values.get(f"{metric}_stderr,{filter_name}")
    if value is None:
        return {}
    return {
        key: TaskMetric(
            value=float(value) if math.isfinite(value) else None,
            stderr=float(error) if isinstance(error, float) and math.isfinite(error) else None,
            n=sum(one.n for one in own.values()),
            higher_is_better=own[tasks[0].task].higher_is_better,
        )
    }


@contextmanager
def _bar(wanted: bool | str) -> Iterator[Progress]:
    before = f"{wanted} " if isinstance(wanted, str) else ""
    texts = TextColumn(f"{before}{{task.description}}")
    columns = (texts, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not wanted) as bar:
        yield bar
