"""Headline metric of a task: from lm-eval's task, or from its YAML before its data are there."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.hf_offline import go_offline

go_offline()  # the libraries below read their switches when they are imported

from lm_eval.api.registry import (  # noqa: E402
    DEFAULT_METRIC_REGISTRY,
    HIGHER_IS_BETTER_REGISTRY,
    METRIC_AGGREGATION_REGISTRY,
    get_metric_aggregation,
    is_higher_better,
)

from eval.metric_kinds import aggregation_name, check_score, default_score  # noqa: E402
from eval.suite import TASK_KINDS, SuiteTask  # noqa: E402

_METRICS = ("bits_per_byte", "acc_norm", "acc", "exact_match")
"""Headline metrics in order of preference, for a suite that names none."""


def resolve(
    task: SuiteTask,
    built: Any,  # noqa: ANN401 (an lm-eval task)
    evaluated: Sequence[str] = (),
) -> SuiteTask:
    """Fill in kind, metric, score and filter where the suite leaves them to the task.

    The metric is the first of ``_METRICS`` that the task has, else its first; the filter is the
    only one, else the one called strict, else the first. The score is the one of the metric's
    aggregation, see ``eval.metric_kinds``.

    Args:
        task: A task of the suite.
        built: lm-eval's task.
        evaluated: Names of the metrics after an evaluation: those of one function are known
            only then (pass@1 of pass_at_k).

    Raises:
        ValueError: If the suite's score does not go with the metric.
    """
    kind = next(kind for kind, output in TASK_KINDS.items() if output == built.OUTPUT_TYPE)
    aggregations, directions = built.aggregation(), built.higher_is_better()
    names = [name for name in aggregations if not evaluated or name in evaluated]
    names = names or list(evaluated)
    metric = task.metric or _preferred(names)
    aggregation = aggregation_name(aggregations, metric)
    facts = {"aggregation": aggregation, "higher_is_better": directions.get(metric)}
    score = task.score or default_score(metric, **facts)
    if metric in aggregations:
        check_score(score, metric, task=task.task, **facts)
    filters = [str(ensemble.name) for ensemble in built._filters] or ["none"]
    strict = [name for name in filters if "strict" in name]
    return replace(
        task,
        kind=task.kind or kind,
        metric=metric,
        score=score,
        filter=task.filter or (strict or filters)[0],
    )


def stated_metric(
    task: SuiteTask, config: Mapping[str, Any]
) -> tuple[str | None, str | None] | None:
    """Metric and score that a task's YAML states; None where only an evaluation tells them.

    Args:
        task: A task of a suite; its own metric and score count before those of the YAML.
        config: The task's YAML, with the changes of its group.
    """
    listed = config.get("metric_list") or [
        {"metric": name} for name in DEFAULT_METRIC_REGISTRY.get(config.get("output_type"), ())
    ]
    entries = {str(entry["metric"]): entry for entry in listed}
    if not entries or any("/" in name for name in entries):
        return None  # a function may report metrics of other names
    metric = task.metric or _preferred(list(entries))
    if metric not in entries:
        return None
    entry, higher = entries[metric], entries[metric].get("higher_is_better")
    aggregation = str(entry.get("aggregation") or aggregation_of(metric)).rpartition(".")[2]
    if higher is None and metric in HIGHER_IS_BETTER_REGISTRY:
        higher = is_higher_better(metric)
    facts = {"aggregation": aggregation, "higher_is_better": higher}
    return metric, task.score or default_score(metric, **facts)


def aggregation_of(metric: str) -> str:
    """Name of lm-eval's own aggregation of a metric; the mean where it has none."""
    own = get_metric_aggregation(metric) if metric in METRIC_AGGREGATION_REGISTRY else None
    return str(getattr(own, "__name__", "mean"))


def _preferred(names: Sequence[str]) -> str:
    return next((name for name in _METRICS if name in names), names[0])
