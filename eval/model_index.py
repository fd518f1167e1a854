"""Scores of a record in the form of the Hub's model index."""

from collections.abc import Iterator

from huggingface_hub import EvalResult

from eval.records import Record, Score

_TASK_TYPE = "text-generation"


def results_of(record: Record) -> list[EvalResult]:
    """List a record's scores, each metric followed by its standard error.

    A task's own metric has lm-eval's name and unit, and its ``_stderr`` where it is the score.
    Where the score is another number, a fraction made of it, both are listed.

    Args:
        record: Of a run that was evaluated.
    """
    return [
        result for task, score in record.scores.items() for result in _of(record, task, score)
    ]


def _of(record: Record, task: str, score: Score) -> Iterator[EvalResult]:
    metric = score.raw_metric.partition(",")[0]
    if score.raw == score.value:
        yield _result(record, task, metric, score.value, score.n)
        yield _result(record, task, f"{metric}_stderr", score.stderr, score.n)
        return
    yield _result(record, task, metric, score.raw, score.n)
    yield _result(record, task, "score", score.value, score.n)
    yield _result(record, task, "score_stderr", score.stderr, score.n)


def _result(record: Record, task: str, metric: str, value: float, n: int) -> EvalResult:
    return EvalResult(
        task_type=_TASK_TYPE,
        dataset_type=task,
        dataset_name=task,
        dataset_split=None if record.suite is None else record.suite.split,
        metric_type=metric,
        metric_name=metric,
        metric_value=value,
        metric_args={"n_samples": n},
    )
