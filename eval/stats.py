"""Means and differences of scores, with standard errors."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.results import Sample, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and one standard error of it."""

    value: float
    stderr: float


def mean_score(scores: Sequence[Score]) -> Estimate:
    """Average scores over tasks, each task counting once.

    Args:
        scores: One score a task, at least one; their documents are taken as independent.

    Returns:
        The mean; its error is the root of the summed squared errors, over their number.

    Raises:
        ValueError: If there is no score.
    """
    if not scores:
        raise ValueError("a mean score needs at least one task, got none")
    return Estimate(
        value=math.fsum(score.value for score in scores) / len(scores),
        stderr=math.hypot(*(score.stderr for score in scores)) / len(scores),
    )


def paired_difference(first: Sequence[Sample], second: Sequence[Sample]) -> Estimate:
    """Mean of first minus second over the same documents of one task.

    Args:
        first: Samples of one run, at least two.
        second: Samples of another run, of the same documents in any order.

    Returns:
        The mean difference, with standard error sd / sqrt(n) of the differences, ddof 1.

    Raises:
        ValueError: If the runs did not see the same documents, or fewer than two.
    """
    _check_matched(first, second)
    ours, theirs = (
        np.array([s.value for s in sorted(samples, key=lambda s: (s.doc_hash, s.doc_id))])
        for samples in (first, second)
    )
    differences = ours - theirs
    return Estimate(
        value=float(differences.mean()),
        stderr=float(differences.std(ddof=1) / math.sqrt(len(differences))),
    )


def _check_matched(first: Sequence[Sample], second: Sequence[Sample]) -> None:
    ours, theirs = (Counter(s.doc_hash for s in samples) for samples in (first, second))
    if ours != theirs:
        raise ValueError(
            f"paired runs must have seen the same documents; {(ours - theirs).total()} are only "
            f"in the first and {(theirs - ours).total()} only in the second"
        )
    if ours.total() < 2:
        raise ValueError(f"a paired difference needs at least 2 documents, got {ours.total()}")
