"""Scores as lm-eval gives them: what a run keeps until they are in its record.

Scoring is the costly part of a run. If what comes after it fails, the scores are written beside
the run's record, and the same command goes on from them.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.records import atomic_write

SCORED_NAME = "scored.json.gz"
_FAILED = "failed: "
"""Begins what stands in place of a metric whose aggregation raised an error."""
_FIELDS = ("doc_id", "doc_hash", "filter", "metrics")
_MOST_BYTES = 2**31
"""Largest size of the unpacked file."""
_DAMAGED = (OSError, EOFError, ValueError, TypeError, KeyError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Results of lm-eval on a suite, before they are scores of ours."""

    results: Mapping[str, Mapping[str, Any]]
    """Task to ``metric,filter`` to value."""
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    """Task to its documents: number, hash, filter, names of metrics and their values."""
    versions: Mapping[str, Any]
    """Task to its version."""
    caps: dict[str, int]
    """Task to the most tokens of an answer, where the model reads too few for the task's own."""
    max_length: int
    """Tokens that the model reads."""


def scored_from(
    results: Mapping[str, Any], *, caps: Mapping[str, int], max_length: int
) -> Scored:
    """Take from lm-eval's results what scores are made of; texts of documents are left out."""
    return Scored(
        results=results["results"],
        samples={
            task: [
                {key: sample[key] for key in (*_FIELDS, *sample["metrics"]) if key in sample}
                for sample in logged
            ]
            for task, logged in results["samples"].items()
        },
        versions=results["versions"],
        caps=dict(caps),
        max_length=max_length,
    )


@contextmanager
def postponed_errors(tasks: Iterable[Any]) -> Iterator[None]:
    """Let lm-eval finish where a task's aggregation over documents raises an error.

    The metric is then what :func:`aggregated` computes again, so that the error comes after all
    tasks are scored.

    Args:
        tasks: lm-eval's tasks.
    """
    changed = list(tasks)
    for task in changed:
        task.aggregation = _postponing(task.aggregation)
    try:
        yield
    finally:
        for task in changed:
            del task.aggregation  # the class's own again


def _postponing(
    aggregation: Callable[[], Mapping[str, Callable[..., Any]]],
) -> Callable[[], dict[str, Callable[..., Any]]]:
    def postponed(function: Callable[..., Any]) -> Callable[..., Any]:
        def aggregate(values: Sequence[Any]) -> Any:  # noqa: ANN401
            try:
                return function(values)
            except Exception as error:  # raised again by aggregated
                return f"{_FAILED}{type(error).__name__}"

        return aggregate

    return lambda: {metric: postponed(function) for metric, function in aggregation().items()}


def aggregated(scored: Scored, tasks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the results with metrics aggregated whose aggregation failed before.

    Raises:
        Exception: Whatever the task's function raises; a note names task and metric.
    """
    return {
        task: {
            key: _aggregated(scored.samples[task], key, tasks[task])
            if isinstance(value, str) and value.startswith(_FAILED)
            else value
            for key, value in results.items()
        }
        for task, results in scored.results.items()
    }


def _aggregated(samples: Sequence[Mapping[str, Any]], key: str, task: Any) -> Any:  # noqa: ANN401
    metric, _, filter_name = key.partition(",")
    of_filter = [sample for sample in samples if sample["filter"] == filter_name]
    try:
        return task.aggregation()[metric]([s[metric] for s in of_filter if metric in s])
    except Exception as error:
        error.add_note(f"while aggregating {metric} of {task.config.task} over its documents")
        raise


def write_scored(path: Path, scored: Scored) -> None:
    """Write scores to a file, whole or not at all.

    Raises:
        OSError: If it cannot be written.
        TypeError: If a value is of a type that JSON has not.
    """
    content = {
        "results": _packed(scored.results),
        "samples": _packed(scored.samples),
        "versions": _packed(scored.versions),
        "caps": scored.caps,
        "max_length": scored.max_length,
    }
    atomic_write(path, gzip.compress(json.dumps(content).encode(), mtime=0))


def read_scored(path: Path) -> Scored:
    """Read the scores that :func:`write_scored` wrote.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with gzip.open(path) as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it unpacks to more than {_MOST_BYTES} bytes")
        content = json.loads(text)
        return Scored(
            results=_unpacked(content["results"]),
            samples=_unpacked(content["samples"]),
            versions=_unpacked(content["versions"]),
            caps={str(task): int(cap) for task, cap in content["caps"].items()},
            max_length=int(content["max_length"]),
        )
    except (*_DAMAGED, AttributeError) as error:
        raise ValueError(f"{path} holds no scores ({type(error).__name__})") from error


def _packed(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """Return a value in JSON's types; tuples and objects are told from lists and each other."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {"object": [[key, _packed(inner)] for key, inner in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_packed(inner) for inner in value]}
    if isinstance(value, list | np.ndarray):
        return [_packed(inner) for inner in value]
    return value


def _unpacked(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return [_unpacked(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_unpacked(inner) for inner in value["tuple"])
    return {key: _unpacked(inner) for key, inner in value["object"]}
