"""Kinds of metrics: the number that each becomes in a mean over tasks, or none."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REPORTED = "reported"
"""Score of a task that is listed beside the others and is in no mean, rank or test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricKind:
    """Conversion of a task's metric into its score."""

    aggregations: tuple[str, ...]
    """Names of lm-eval's functions from the values of documents to such a metric."""
    in_mean: str
    """The number in the mean; all are in [0, 1] and better when higher."""


METRIC_KINDS: Mapping[str, MetricKind] = {
    "raw": MetricKind(
        aggregations=("mean",),
        in_mean="the metric itself: mean over documents of a fraction, better when higher",
    ),
    "byte_likelihood": MetricKind(
        aggregations=("bits_per_byte",),
        in_mean="2 ** -bits_per_byte, the geometric mean probability of a byte",
    ),
    "inverse_perplexity": MetricKind(
        aggregations=("perplexity", "weighted_perplexity"),
        in_mean="1 / perplexity, the geometric mean probability of an answer, word or byte",
    ),
    "parts": MetricKind(
        aggregations=("agg_inst_level_acc",),
        in_mean="fraction of the parts of all documents, such as instructions followed",
    ),
    REPORTED: MetricKind(
        aggregations=(
            *("f1_score", "matthews_corrcoef", "brier_score", "median", "nanmean"),
            *("bleu", "chrf", "chrfpp", "ter"),
        ),
        in_mean="none: a metric of the whole corpus (F1, MCC, BLEU), or one that is better when "
        "lower, or no fraction",
    ),
}
"""Score of a task in a suite to its meaning. Ratios of sums are resampled by document."""

_SCORES = {name: s for s, kind in METRIC_KINDS.items() for name in kind.aggregations}
_NO_FRACTION = re.compile(
    r"bleu|bleu_avg|rouge([12]|L|Lsum)?|chrf|.*_(max|diff)|eqbench|percent_.*", re.IGNORECASE
)
"""Metrics that lm-eval's tasks average over documents in per cent, or as signed differences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMetric:
    """A metric of a task that is in no mean, as lm-eval reports it."""

    value: float | None
    """In its own unit; None if it is not finite."""
    stderr: float | None
    """One standard error over documents; None if it is not known."""
    n: int
    """Number of documents."""
    higher_is_better: bool | None
    """None if the task does not say."""


def aggregation_name(aggregations: Mapping[str, Any], metric: str) -> str:
    """Name of the function over documents; lm-eval's mean where a task gives none."""
    if metric not in aggregations:
        return "mean"
    return str(getattr(aggregations[metric], "__name__", "unnamed"))


def default_score(metric: str, *, aggregation: str, higher_is_better: bool | None) -> str:
    """Return the key of ``METRIC_KINDS`` of a metric for which a suite names no score.

    Args:
        metric: Its name; names of lm-eval's that are no fractions are known.
        aggregation: From ``aggregation_name``.
        higher_is_better: None if the task does not say.
    """
    score = _SCORES.get(aggregation, REPORTED)
    is_fraction = higher_is_better and not _NO_FRACTION.fullmatch(metric)
    return score if score != "raw" or is_fraction else REPORTED


def check_score(
    score: str, metric: str, *, task: str, aggregation: str, higher_is_better: bool | None
) -> None:
    """Refuse a score that a metric cannot have, by its aggregation and its direction.

    Tasks' own functions can be any; the score is compared with theirs after the evaluation.

    Raises:
        ValueError: If the score does not go with the metric; names those that do.
    """
    fitting = _SCORES.get(aggregation, score)
    alone = fitting == REPORTED or (fitting == "raw" and not higher_is_better)
    choices = [REPORTED] if alone else [fitting, REPORTED]
    if score not in choices:
        direction = "higher" if higher_is_better else "lower"
        raise ValueError(
            f"{task}: the score of {metric} ({aggregation} over documents, better when "
            f"{direction}) must be {' or '.join(choices)}, got {score}"
        )
