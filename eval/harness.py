"""Score a model folder on a suite, in process, through lm-eval."""

import logging
import math
import numbers
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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

from eval.records import Sample, Score  # noqa: E402
from eval.statistics.scores import (  # noqa: E402
    byte_likelihood,
    byte_likelihood_score,
    raw_score,
)
from eval.suite import Suite, SuiteTask  # noqa: E402
from eval.suite_lm import SuiteLM  # noqa: E402
from eval.task_options import code_execution  # noqa: E402
from eval.tasks import build_tasks, group_of, resolve  # noqa: E402

_logger = logging.getLogger(__name__)
_BOOTSTRAP_ITERS = 1
"""Smallest number for which lm-eval writes no "N/A"; errors come from the samples instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores and samples of a model on a suite; mappings follow the suite's order."""

    tasks: tuple[SuiteTask, ...]
    """Tasks of the suite; entries that are None in the suite are filled in."""
    scores: dict[str, Score]
    samples: dict[str, list[Sample]]
    groups: dict[str, dict[str, float]]
    """Group of tasks to the shares of its tasks in its score; they add up to 1."""
    caps: dict[str, int]
    """Task to the most tokens of an answer, where the model reads too few for the task's own."""
    versions: dict[str, Any]
    """Task to the version in its lm-eval file, None where it states none."""


def evaluate(
    model: Path, suite: Suite, *, device: str, seed: int, progress: bool
) -> Evaluation:
    """Score a model folder on every task of a suite.

    Args:
        model: Folder with weights, configuration and tokenizer.
        suite: The tasks, built once per process. Entries that are None are the task's own.
        device: A torch device; on the CPU the model runs in float32 unless the suite says
            otherwise.
        seed: Seed of few-shot draws and of sampled generation.
        progress: Show a progress bar.

    Raises:
        ValueError: If the model folder is incomplete or not finite, a task or metric is
            unknown, a score is not a fraction, or one row does not fit the memory.
    """
    tasks = build_tasks(suite)
    folder = model.resolve()
    for task in tasks.values():
        task.set_fewshot_seed(seed)
    devices = [] if device == "cpu" else [torch.device(device)]
    random_state = torch.random.fork_rng(devices)
    with _bar(enabled=progress) as bar, random_state, torch.inference_mode():
        torch.manual_seed(seed)
        lm = SuiteLM(folder, suite, device=device, bar=bar)
        with code_execution(suite):
            results = evaluator.evaluate(
                lm=lm,
                task_dict={"tasks": tasks},
                limit=suite.limit,
                bootstrap_iters=_BOOTSTRAP_ITERS,
                log_samples=True,
                system_instruction=suite.system_instruction,
                apply_chat_template=suite.chat_template,
                fewshot_as_multiturn=suite.multiturn,
                confirm_run_unsafe_code=suite.allow_code_execution,
            )
    resolved = tuple(resolve(task, tasks[task.task]) for task in suite.tasks)
    samples = {t.task: _samples(t, results["samples"][t.task]) for t in resolved}
    scores = {t.task: _score(t, samples[t.task], results) for t in resolved}
    stated = {t.task: results["versions"].get(t.task) for t in suite.tasks}
    versions = {task: None if v == "N/A" else v for task, v in stated.items()}
    for name, cap in lm.caps.items():
        _logger.warning(
            "%s: answers are cut at %d tokens: the model reads %d, prompt and answer together",
            name,
            cap,
            lm.max_length,
        )
    members: dict[str, list[SuiteTask]] = defaultdict(list)
    for task in resolved:
        if task.group is not None:
            members[task.group].append(task)
    return Evaluation(
        tasks=resolved,
        scores=scores,
        samples=samples,
        versions=versions,
        caps=lm.caps,
        groups={
            name: _shares(_group(suite, name, tasks), of_group, scores, results["results"])
            for name, of_group in members.items()
        },
    )


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


def _samples(task: SuiteTask, logged: list[dict[str, Any]]) -> list[Sample]:
    """Convert lm-eval's samples under the task's filter, in document order."""
    of_filter = [sample for sample in logged if sample["filter"] == task.filter]
    if not of_filter or task.metric not in of_filter[0]:
        filters = sorted({sample["filter"] for sample in logged})
        raise ValueError(
            f"{task.task} must report {task.metric} under filter {task.filter}; "
            f"it has filters {filters} and metrics {logged[0]['metrics']}"
        )
    return [_sample(task, sample) for sample in sorted(of_filter, key=lambda s: s["doc_id"])]


def _sample(task: SuiteTask, logged: Mapping[str, Any]) -> Sample:
    metric, rolling = logged[str(task.metric)], task.score == "byte_likelihood"
    if not rolling and not isinstance(metric, numbers.Real):
        raise ValueError(f"{task.task}: {task.metric} must be a number, got {metric!r}")
    log, n_bytes = (float(metric[0]), int(metric[1])) if rolling else (None, None)
    return Sample(
        doc_id=int(logged["doc_id"]),
        doc_hash=str(logged["doc_hash"]),
        value=float(metric)
        if log is None or n_bytes is None
        else byte_likelihood(log, n_bytes),
        loglikelihood=log,
        n_bytes=n_bytes,
    )


def _score(task: SuiteTask, samples: list[Sample], results: Mapping[str, Any]) -> Score:
    """Score a task from its samples, and check it against lm-eval's aggregate."""
    if not results["higher_is_better"][task.task][task.metric] and task.score == "raw":
        raise ValueError(f"{task.task}: {task.metric} must be better when higher to be a score")
    if task.score == "raw":
        score = raw_score(samples, metric=str(task.metric))
    else:
        score = byte_likelihood_score(samples)
    reported = float(results["results"][task.task][f"{task.metric},{task.filter}"])
    if not math.isclose(score.raw, reported, rel_tol=1e-9, abs_tol=1e-12):
        raise ValueError(
            f"{task.task}: {task.metric} must be aggregated over documents by its mean, "
            f"which is {score.raw}; lm-eval reports {reported}"
        )
    return score


@contextmanager
def _bar(*, enabled: bool) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True, disable=not enabled) as bar:
        yield bar
