"""Errors of a task's own functions, raised after everything is scored: no answer is lost.

lm-eval runs filters, ``process_results`` and aggregations of all tasks after the models have
answered; an error in one of them loses the answers to all. Here what the function was given is
kept in its place, and the function runs again when the scores are looked at.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from eval.scored import Scored

_FAILED = "failed: "
"""Begins what stands in place of a metric whose aggregation raised an error."""
_UNPROCESSED, _UNFILTERED = "unprocessed", "unfiltered"
"""Stand in place of a document's metrics: what its function was given."""


@contextmanager
def postponed_errors(tasks: Iterable[Any]) -> Iterator[None]:
    """Let lm-eval finish where a function of a task raises an error.

    What it would have returned is what :func:`completed` computes again.

    Args:
        tasks: lm-eval's tasks.
    """
    changed = [(task, dict(vars(task))) for task in tasks]
    for task, _ in changed:
        unfiltered: set[str] = set()
        task.apply_filters = _filtering(task, unfiltered)
        task.process_results = _processing(task.process_results, unfiltered)
        task.aggregation = _aggregating(task.aggregation)
    try:
        yield
    finally:
        for task, own in changed:
            for name in ("apply_filters", "process_results", "aggregation"):
                delattr(task, name)  # the class's own again
                if name in own:
                    setattr(task, name, own[name])


def _filtering(task: Any, unfiltered: set[str]) -> Callable[[], None]:  # noqa: ANN401
    """Apply a task's filters; answers that one fails on stay as they are, under its name."""

    def apply() -> None:
        for ensemble in getattr(task, "_filters", ()):
            try:
                ensemble.apply(task.instances)
            except Exception:  # raised again by completed
                unfiltered.add(ensemble.name)
                for instance in task.instances:
                    instance.filtered_resps[ensemble.name] = _Unfiltered(
                        ensemble.name, instance.resps
                    )

    return apply


@dataclass(frozen=True, slots=True)
class _Unfiltered:
    """Answers to one request that a filter failed on."""

    filter: str
    answers: list[Any]


def _processing(
    process: Callable[..., Mapping[str, Any]], unfiltered: set[str]
) -> Callable[..., Mapping[str, Any]]:
    def processed(doc: Any, results: Sequence[Any]) -> Mapping[str, Any]:  # noqa: ANN401
        if unfiltered and isinstance(results[0], _Unfiltered):
            return {_UNFILTERED: [result.answers for result in results]}
        try:
            return process(doc, results)
        except Exception:  # raised again by completed
            return {_UNPROCESSED: list(results)}

    return processed


def _aggregating(
    aggregation: Callable[[], Mapping[str, Callable[..., Any]]],
) -> Callable[[], dict[str, Callable[..., Any]]]:
    def postponed(function: Callable[..., Any]) -> Callable[..., Any]:
        def aggregate(values: Sequence[Any]) -> Any:  # noqa: ANN401
            try:
                return function(values)
            except Exception as error:  # raised again by completed
                return f"{_FAILED}{type(error).__name__}"

        return aggregate

    return lambda: {
        **{metric: postponed(function) for metric, function in aggregation().items()},
        _UNPROCESSED: lambda _: _FAILED,
        _UNFILTERED: lambda _: _FAILED,
    }


def completed(scored: Scored, tasks: Mapping[str, Any]) -> Scored:
    """Run the functions again that raised an error.

    Args:
        scored: Scores of lm-eval, taken under :func:`postponed_errors`.
        tasks: Task to lm-eval's task.

    Returns:
        The scores with what the functions return now; the same where none had failed.

    Raises:
        Exception: Whatever a function raises; a note names it, the task, and document or metric.
    """
    results, samples = dict(scored.results), dict(scored.samples)
    for name, logged in scored.samples.items():
        unprocessed = [s for s in logged if _given(s) is not None]
        samples[name] = _processed(logged, tasks[name]) if unprocessed else logged
        keys = _keys(samples[name]) if unprocessed else results[name]
        again = {
            key: _aggregated(samples[name], key, tasks[name])
            for key in keys
            if unprocessed or _is_failed(results[name][key])
        }
        results[name] = {
            key: value
            for key, value in {**results[name], **again}.items()
            if not key.startswith((_UNPROCESSED, _UNFILTERED))
        }
    return replace(scored, results=results, samples=samples)


def _is_failed(value: object) -> bool:
    return isinstance(value, str) and value.startswith(_FAILED)


def _given(sample: Mapping[str, Any]) -> Sequence[Any] | None:
    """Return what the function that failed on a document was given; None if none did."""
    given: Sequence[Any] | None = sample.get(_UNPROCESSED, sample.get(_UNFILTERED))
    return given


def _keys(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """List ``metric,filter`` of all samples."""
    return list(dict.fromkeys(f"{m},{s['filter']}" for s in samples for m in s["metrics"]))


@dataclass(slots=True)
class _Answers:
    """Answers to one request, as lm-eval's filters take them."""

    doc: Any
    resps: Sequence[Any]
    filtered_resps: dict[str, Any] = field(default_factory=dict)


def _processed(
    logged: Sequence[Mapping[str, Any]],
    task: Any,  # noqa: ANN401
) -> list[Mapping[str, Any]]:
    """Filter and process again the documents whose functions failed."""
    n_failed: dict[str, int] = defaultdict(int)
    for sample in logged:
        n_failed[sample["filter"]] += _given(sample) is not None
    filtered = _filtered(logged, task)
    again = []
    for i, sample in enumerate(logged):
        results = filtered.get(i, sample.get(_UNPROCESSED))
        if results is not None:
            rest = n_failed[sample["filter"]] - 1
            place = f"document {sample['doc_id']} of {task.config.task}"
            more = f" (it failed on {rest} more)" if rest else ""
            with _noting(f"while process_results computed the metrics of {place}{more}"):
                metrics = task.process_results(_document(task, sample["doc_id"]), results)
            about = {k: v for k, v in sample.items() if k not in (_UNPROCESSED, _UNFILTERED)}
            sample = about | {"metrics": list(metrics)} | dict(metrics)
        again.append(sample)
    return again


def _filtered(logged: Sequence[Mapping[str, Any]], task: Any) -> dict[int, list[Any]]:  # noqa: ANN401
    """Apply the filters that failed; index of the sample to its filtered answers."""
    filtered = {}
    for ensemble in task._filters:
        of_filter = {
            i: [_Answers(_document(task, s["doc_id"]), answers) for answers in s[_UNFILTERED]]
            for i, s in enumerate(logged)
            if s["filter"] == ensemble.name and _UNFILTERED in s
        }
        if of_filter:
            with _noting(f"while the filter {ensemble.name} of {task.config.task} ran"):
                ensemble.apply([a for answers in of_filter.values() for a in answers])
        for i, answers in of_filter.items():
            filtered[i] = [a.filtered_resps[ensemble.name] for a in answers]
    return filtered


def _document(task: Any, number: int) -> Any:  # noqa: ANN401
    return task.eval_docs[number]


def _aggregated(samples: Sequence[Mapping[str, Any]], key: str, task: Any) -> Any:  # noqa: ANN401
    metric, _, filter_name = key.rpartition(",")
    values = [s[metric] for s in samples if s["filter"] == filter_name and metric in s]
    aggregation = task.aggregation().get(metric, _mean)
    with _noting(f"while aggregating {metric} of {task.config.task} over its documents"):
        return aggregation(values)


def _mean(values: Sequence[float]) -> float:
    """Average values, as lm-eval does for a metric that a task names no function for."""
    return sum(values) / len(values)


@contextmanager
def _noting(note: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(note)
        raise
