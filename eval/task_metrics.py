"""Samples, scores and other metrics of a task, from what lm-eval logs of its documents."""

import math
import numbers
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eval.metric_kinds import REPORTED, TaskMetric
from eval.records import Score
from eval.sample_file import Sample
from eval.statistics.scores import (
    byte_likelihood,
    byte_likelihood_score,
    inverse_perplexity_score,
    parts_score,
    raw_score,
)
from eval.suite import SuiteTask

Aggregation = Callable[[Sequence[Any]], Any]
"""lm-eval's function from the values of all documents to a metric."""

_N_DRAWS = 100
"""Draws of the bootstrap, as in lm-eval for BLEU: the error is known to about 7 per cent."""
_N_ORDERS = 3
"""Orders of the documents in which a metric must be the same to be resampled."""
_TEXT_METRICS = ("bleu", "chrf", "chrfpp", "ter")
"""lm-eval's aggregations of texts; those of tasks may take seconds a draw (BERTScore)."""


def metric_names(logged: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the metrics that the documents have, in order."""
    return list(dict.fromkeys(name for sample in logged for name in sample["metrics"]))


def samples_of(task: SuiteTask, logged: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """Convert lm-eval's samples under the task's filter, in document order.

    Raises:
        ValueError: If there is no such filter or metric, or a value is not of the score's kind.
    """
    check_metric(task, logged)
    of_filter = [sample for sample in logged if sample["filter"] == task.filter]
    ordered = sorted(of_filter, key=lambda sample: sample["doc_id"])
    return [_sample(task, sample) for sample in ordered]


def check_metric(task: SuiteTask, logged: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a task that does not report its metric under its filter."""
    of_filter = [sample for sample in logged if sample["filter"] == task.filter]
    if not of_filter or task.metric not in of_filter[0]:
        filters = sorted({sample["filter"] for sample in logged})
        raise ValueError(
            f"{task.task} must report {task.metric} under filter {task.filter}; "
            f"it has filters {filters} and metrics {logged[0]['metrics']}"
        )


def _sample(task: SuiteTask, logged: Mapping[str, Any]) -> Sample:
    """Convert the value of one document; ``score`` says what it consists of."""
    metric = logged[str(task.metric)]
    value, log, n_bytes, n_units = metric, None, None, None
    if task.score == "byte_likelihood":
        log, n_bytes = float(metric[0]), int(metric[1])
        value = byte_likelihood(log, n_bytes)
    elif task.score == "inverse_perplexity":
        log, n_units = (metric, None) if _is_number(metric) else metric
        log = float(log)
        value = math.exp(log / (n_units or 1))
    elif task.score == "parts":
        if (
            not isinstance(metric, list | tuple)
            or not metric
            or not all(map(_is_number, metric))
        ):
            raise _wrong_value(task, "a list of numbers, one a part of the document", metric)
        value, n_units = sum(metric) / len(metric), len(metric)
    elif not _is_number(metric):
        raise _wrong_value(task, "a number", metric)
    return Sample(
        doc_id=int(logged["doc_id"]),
        doc_hash=str(logged["doc_hash"]),
        value=float(value),
        loglikelihood=log,
        n_bytes=n_bytes,
        n_units=n_units,
    )


def _wrong_value(task: SuiteTask, expected: str, value: object) -> ValueError:
    return ValueError(
        f"{task.task}: {task.metric} of a document must be {expected}, got {value!r:.60}; "
        f"`score: {REPORTED}` keeps the task out of the mean"
    )


def score_of(task: SuiteTask, samples: Sequence[Sample], reported: Mapping[str, Any]) -> Score:
    """Score a task from its samples.

    Args:
        task: With metric, filter and score; the score is not ``reported``.
        samples: From ``samples_of``.
        reported: lm-eval's ``metric,filter`` to value, of this task.

    Raises:
        ValueError: If the score is no fraction, or is not the one that lm-eval reports.
    """
    metric, expected = str(task.metric), float(reported[f"{task.metric},{task.filter}"])
    if task.score == "byte_likelihood":
        score = byte_likelihood_score(samples)
    elif task.score == "inverse_perplexity":
        score = inverse_perplexity_score(samples, metric=metric)
    elif outside := [sample.value for sample in samples if not 0 <= sample.value <= 1]:
        raise ValueError(
            f"{task.task}: {metric} must be a fraction in [0, 1] of every document to be in a "
            f"mean, got {outside[0]}; say `score: {REPORTED}` to list it beside the scores"
        )
    elif task.score == "parts":
        score = parts_score(samples, metric=metric)
    else:
        score = raw_score(samples, metric=metric)
    if not math.isclose(score.raw, expected, rel_tol=1e-9, abs_tol=1e-12):
        raise ValueError(
            f"{task.task}: {metric} must be aggregated over documents as the score {task.score} "
            f"says, which gives {score.raw}; lm-eval reports {expected}; "
            f"say `score: {REPORTED}` to list it beside the scores"
        )
    newer = task.score in ("inverse_perplexity", "parts")
    return replace(score, raw=expected) if newer else score


def other_metrics(
    task: SuiteTask,
    logged: Sequence[Mapping[str, Any]],
    reported: Mapping[str, Any],
    aggregations: Mapping[str, Aggregation],
    directions: Mapping[str, bool],
) -> dict[str, TaskMetric]:
    """Collect the metrics of a task that are in no mean, with standard errors.

    The error of a mean is sd / sqrt(n); that of other functions of the documents is from a
    bootstrap with the draws of lm-eval's ``bootstrap_iters=100``. There is none where the
    order of the documents counts, or the task's own function takes texts.

    Args:
        task: With metric, filter and score; its own metric counts if the score is ``reported``.
        logged: lm-eval's samples of the task, all filters.
        reported: lm-eval's ``metric,filter`` to value.
        aggregations: Metric to its function over documents; the mean where there is none.
        directions: Metric to True if higher is better.

    Returns:
        ``metric,filter`` to metric; empty if the score is the task's only one.
    """
    own = None if task.score == REPORTED else f"{task.metric},{task.filter}"
    metrics = {}
    for name in metric_names(logged):
        for filter_name in dict.fromkeys(str(sample["filter"]) for sample in logged):
            key = f"{name},{filter_name}"
            of_filter = [s for s in logged if s["filter"] == filter_name and name in s]
            if key == own or not _is_number(reported.get(key)):
                continue
            metrics[key] = _metric(
                float(reported[key]),
                [sample[name] for sample in of_filter],
                aggregations.get(name),
                directions.get(name),
            )
    return metrics


def _metric(
    value: float, values: list[Any], aggregation: Aggregation | None, direction: bool | None
) -> TaskMetric:
    stderr = _standard_error(value, values, aggregation)
    return TaskMetric(
        value=value if math.isfinite(value) else None,
        stderr=stderr if stderr is not None and math.isfinite(stderr) else None,
        n=len(values),
        higher_is_better=direction,
    )


def _standard_error(
    value: float, values: list[Any], aggregation: Aggregation | None
) -> float | None:
    """One standard error of a metric over documents; None where it is not known."""
    name = getattr(aggregation, "__name__", "")
    if len(values) < 2:
        return None
    if aggregation is None or name == "mean":
        return float(np.std(values, ddof=1) / math.sqrt(len(values)))
    if name not in _TEXT_METRICS and not all(map(_is_numeric, values)):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of draws in which one class is missing
        try:
            rng, n = random.Random(0), len(values)  # the generator of lm-eval's bootstrap
            draws = [float(aggregation(rng.choices(values, k=n))) for _ in range(_N_DRAWS)]
            mixed = [float(aggregation(rng.sample(values, n))) for _ in range(_N_ORDERS)]
            if not all(math.isclose(value, x, rel_tol=1e-6, abs_tol=1e-9) for x in mixed):
                return None
        except (ArithmeticError, ValueError):  # not defined for such documents
            return None
    return float(np.std(draws, ddof=1))


def _is_number(value: Any) -> bool:  # noqa: ANN401 (any JSON)
    return isinstance(value, numbers.Real | np.bool_)


def _is_numeric(value: Any) -> bool:  # noqa: ANN401 (any JSON)
    """Check for a number, or nested sequences of numbers."""
    if isinstance(value, list | tuple | np.ndarray):
        return all(map(_is_numeric, value))
    return _is_number(value)
