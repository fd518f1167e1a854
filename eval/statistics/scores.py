"""Means and differences of scores, with standard errors; correction for many tests."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.records import Score
from eval.sample_file import Sample

Groups = Mapping[str, Mapping[str, float]]
"""Group to the shares of its subtasks, which add up to 1; a group counts like one task."""

_NO_GROUPS: Groups = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and one standard error of it."""

    value: float
    stderr: float


def mean_score(scores: Sequence[Score | Estimate]) -> Estimate:
    """Average scores over tasks, each task counting once.

    Args:
        scores: One score a task, at least one; their documents are taken as independent.

    Returns:
        The mean; its error is the root of the summed squared errors, over their number.

    Raises:
        ValueError: If ``scores`` is empty.
    """
    if not scores:
        raise ValueError("a mean score needs at least one task, got none")
    return Estimate(
        value=math.fsum(score.value for score in scores) / len(scores),
        stderr=math.hypot(*(score.stderr for score in scores)) / len(scores),
    )


def columns_of(
    domains: Mapping[str, str], groups: Groups = _NO_GROUPS
) -> dict[str, dict[str, float]]:
    """Shares of tasks in each column of a table: a group's, or 1 of a task in none.

    Args:
        domains: Task to domain; columns are in the order of their first tasks.
        groups: Groups; tasks that ``domains`` lacks are passed over.
    """
    group_of = {task: group for group, shares in groups.items() for task in shares}
    columns: dict[str, dict[str, float]] = {}
    for task in domains:
        group = group_of.get(task)
        share = 1.0 if group is None else groups[group][task]
        columns.setdefault(group or task, {})[task] = share
    return columns


def column_score(shares: Mapping[str, float], scores: Mapping[str, Score]) -> Estimate:
    """Score of a column: the weighted sum of its tasks' scores, taken as independent."""
    return Estimate(
        value=math.fsum(share * scores[task].value for task, share in shares.items()),
        stderr=math.hypot(*(share * scores[task].stderr for task, share in shares.items())),
    )


def task_weights(domains: Mapping[str, str], groups: Groups = _NO_GROUPS) -> dict[str, float]:
    """Weight of every task in the overall mean: mean within a domain, then across.

    Args:
        domains: Task to domain, at least one task.
        groups: Groups of subtasks; each counts like one task of its domain.

    Returns:
        share / (number of domains x number of columns in the task's domain), where a task in no
        group is a column of share 1; they add up to 1.

    Raises:
        ValueError: If ``domains`` is empty.
    """
    if not domains:
        raise ValueError("an overall mean needs at least one task, got none")
    columns = columns_of(domains, groups)
    sizes = Counter(domains[next(iter(shares))] for shares in columns.values())
    share_of = {task: share for shares in columns.values() for task, share in shares.items()}
    return {
        task: share_of[task] / (len(sizes) * sizes[domain]) for task, domain in domains.items()
    }


def domain_means(
    scores: Mapping[str, Score], domains: Mapping[str, str], groups: Groups = _NO_GROUPS
) -> dict[str, Estimate]:
    """Average the scores of each domain's tasks, each task and each group counting once.

    Args:
        scores: Task to score, one for every task of ``domains``.
        domains: Task to domain; the result has the domains in this order.
        groups: Groups of subtasks.

    Raises:
        ValueError: If a task has no score; names it.
    """
    if missing := sorted(domains.keys() - scores.keys()):
        raise ValueError(f"a mean needs a score of every task, got none of {missing}")
    of_domain: dict[str, list[Score | Estimate]] = {}
    for name, shares in columns_of(domains, groups).items():
        score = scores[name] if name in shares else column_score(shares, scores)
        of_domain.setdefault(domains[next(iter(shares))], []).append(score)
    return {domain: mean_score(members) for domain, members in of_domain.items()}


def overall_mean(
    scores: Mapping[str, Score], domains: Mapping[str, str], groups: Groups = _NO_GROUPS
) -> Estimate:
    """Average the domain means, each domain counting once however many tasks it has.

    Args:
        scores: Task to score, one for every task of ``domains``.
        domains: Task to domain, at least one.
        groups: Groups of subtasks.

    Returns:
        The mean; the errors of the tasks are carried through as independent.

    Raises:
        ValueError: If ``domains`` is empty, or a task has no score.
    """
    weights = task_weights(domains, groups)
    means = domain_means(scores, domains, groups).values()
    return Estimate(
        value=math.fsum(mean.value for mean in means) / len(means),
        stderr=math.hypot(*(weights[task] * scores[task].stderr for task in domains)),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple testing, by Holm's step-down method.

    Holm, A simple sequentially rejective multiple test procedure, 1979: the i-th smallest of
    n is multiplied by n - i + 1, never less than the adjusted one before it, at most 1. The
    family-wise error is controlled under any dependence between the tests.

    Args:
        p_values: Each in [0, 1].

    Returns:
        Adjusted p-values, in the order given.

    Raises:
        ValueError: If one is outside [0, 1] or NaN.
    """
    if wrong := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"p-values must be in [0, 1], got {wrong}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def raw_score(samples: Sequence[Sample], *, metric: str) -> Score:
    """Average a per-document metric that is a fraction already.

    Args:
        samples: At least two documents.
        metric: The metric's name.

    Returns:
        The mean, with standard error sd / sqrt(n), ddof 1.
    """
    values = np.array([sample.value for sample in samples], dtype=np.float64)
    _check_enough(values, metric)
    value = float(values.mean())
    return Score(
        value=value,
        stderr=float(values.std(ddof=1) / math.sqrt(len(values))),
        n=len(values),
        raw=value,
        raw_metric=metric,
        higher_is_better=True,
    )


def byte_likelihood(loglikelihood: float, n_bytes: int) -> float:
    """Geometric mean probability per byte, 2 ** -bits_per_byte, in (0, 1].

    Args:
        loglikelihood: Natural logarithm, summed over the text.
        n_bytes: UTF-8 bytes of the text, at least 1.
    """
    return math.exp(loglikelihood / n_bytes)


def byte_likelihood_score(samples: Sequence[Sample]) -> Score:
    """Score rolling log-likelihoods of whole documents by bits per byte.

    Bits per byte is a ratio of sums, R = sum(bits) / sum(bytes); its standard error is the
    ratio estimator's (Cochran, Sampling Techniques, 1977, section 6.4), carried to 2 ** -R
    by the derivative.

    Args:
        samples: At least two documents with ``loglikelihood`` and ``n_bytes``.
    """
    logs = np.array([sample.loglikelihood for sample in samples], dtype=np.float64)
    sizes = np.array([sample.n_bytes for sample in samples], dtype=np.float64)
    _check_enough(logs, "bits_per_byte")
    ratio, ratio_stderr = _ratio(-logs / math.log(2), sizes)
    value = 2.0**-ratio
    return Score(
        value=value,
        stderr=float(math.log(2) * value * ratio_stderr),
        n=len(logs),
        raw=ratio,
        raw_metric="bits_per_byte",
        higher_is_better=False,
    )


def inverse_perplexity_score(samples: Sequence[Sample], *, metric: str) -> Score:
    """Score log-likelihoods by 1 / perplexity, the geometric mean probability of a unit.

    Perplexity is exp(R) of the ratio R = -sum(loglikelihood) / sum(units); errors are those of
    ``byte_likelihood_score``.

    Args:
        samples: At least two documents with ``loglikelihood``; a document without ``n_units``
            is one unit.
        metric: The metric's name.
    """
    logs = np.array([sample.loglikelihood for sample in samples], dtype=np.float64)
    _check_enough(logs, metric)
    ratio, stderr = _ratio(-logs, _units(samples))
    value = math.exp(-ratio)
    return Score(
        value=value,
        stderr=value * stderr,
        n=len(logs),
        raw=math.exp(ratio),
        raw_metric=metric,
        higher_is_better=False,
    )


def parts_score(samples: Sequence[Sample], *, metric: str) -> Score:
    """Score parts of documents by the mean over all parts, a ratio of sums over documents.

    Args:
        samples: At least two documents; ``value`` is the mean over ``n_units`` parts.
        metric: The metric's name.
    """
    values = np.array([sample.value for sample in samples], dtype=np.float64)
    _check_enough(values, metric)
    units = _units(samples)
    ratio, stderr = _ratio(values * units, units)
    return Score(
        value=min(ratio, 1.0),  # rounding of value * n_units
        stderr=stderr,
        n=len(values),
        raw=ratio,
        raw_metric=metric,
        higher_is_better=True,
    )


def _units(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """Units of each document, 1 where a sample states none."""
    return np.array([sample.n_units or 1 for sample in samples], dtype=np.float64)


def _ratio(totals: NDArray[np.float64], sizes: NDArray[np.float64]) -> tuple[float, float]:
    """Ratio of sums and its standard error, for at least two documents."""
    n = len(totals)
    ratio = totals.sum() / sizes.sum()
    residuals = totals - ratio * sizes
    stderr = math.sqrt(n / (n - 1) * float(residuals @ residuals)) / sizes.sum()
    return float(ratio), float(stderr)


def _check_enough(values: NDArray[np.float64], metric: str) -> None:
    if len(values) < 2:
        raise ValueError(f"{metric} needs at least 2 documents for an error, got {len(values)}")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{metric} must be finite for every document, got {values.tolist()[:5]}"
        )
