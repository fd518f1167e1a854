"""Paired differences between runs, with errors, win probabilities and permutation tests.

Errors and tests generalise over documents of the same kind, for these models as they are; the
variation of a method over seeds needs runs at several seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from eval.statistics.resampling import (
    RESAMPLES,
    bootstrap_means,
    sign_flip_p_values,
)
from eval.statistics.samples import Array, Panel, ScoreTable
from eval.statistics.scores import Estimate, holm, task_weights

LEVEL = 0.05
"""Significance level: 95 % intervals, and Holm-corrected p-values below this."""

CLOSE_RESAMPLES = 100_000
"""Sign patterns behind a p-value that is close to ``LEVEL``: fewer would leave it to chance."""

_CLOSE_ERRORS = 5.0
"""Standard errors of a p-value from ``LEVEL`` within which it is close."""

NEGLIGIBLE = 5e-5
"""Smallest difference that counts; tables round those below it to 0.00 points. Rounding of
weights shifts all documents slightly and alike, which a paired test finds significant."""

_SAME = 1e-12
"""Means closer than this differ by rounding only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Paired comparison of two runs on the same documents."""

    first: str
    second: str
    difference: Estimate
    """Overall mean of the first minus the second's, and its bootstrap standard error."""
    low: float
    high: float
    """95 % percentile bootstrap interval of the difference; not corrected for other pairs."""
    probability: float
    """Share of bootstrap resamples in which the first is ahead; ties count half."""
    p_value: float
    """Two-sided paired permutation test; not corrected for other pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedComparison(Comparison):
    """Comparison with its p-value corrected within a family."""

    p_holm: float
    """The p-value after Holm's correction for the family."""

    @property
    def differs(self) -> bool:
        """True if the difference is significant after the correction, and not negligible."""
        return self.p_holm < LEVEL and abs(self.difference.value) >= NEGLIGIBLE


def compare(
    panel: Panel,
    pairs: Sequence[tuple[str, str]],
    *,
    n_resamples: int,
    seed: int,
) -> list[Comparison]:
    """Compare pairs of runs by their overall means (within a domain, then across).

    Args:
        panel: The runs and their documents.
        pairs: Labels of two runs each.
        n_resamples: Bootstrap draws, and sign patterns of the test; see ``resamples_for``.
        seed: Same seed, same numbers; they do not depend on the other pairs.

    Returns:
        One comparison per pair, in the order given, not corrected for multiple testing.

    Raises:
        ValueError: If a run is not on the panel, or ``n_resamples`` is below 2.
    """
    p_values = sign_flip_p_values(panel, pairs, n_resamples=n_resamples, seed=seed)
    means = np.concatenate(list(bootstrap_means(panel, n_resamples=n_resamples, seed=seed)))
    resampled = dict(zip(panel.runs, means.T, strict=True))
    observed = overall(panel.observed())
    return [
        _comparison(pair, observed, resampled, p_value)
        for pair, p_value in zip(pairs, p_values, strict=True)
    ]


def correct(comparisons: Sequence[Comparison]) -> list[CorrectedComparison]:
    """Correct the p-values of a family of comparisons by Holm's method.

    Args:
        comparisons: The family, from any panels.

    Returns:
        The same comparisons with corrected p-values, in the order given.
    """
    corrected = holm([comparison.p_value for comparison in comparisons])
    return [
        CorrectedComparison(
            **{field.name: getattr(comparison, field.name) for field in fields(comparison)},
            p_holm=p_holm,
        )
        for comparison, p_holm in zip(comparisons, corrected, strict=True)
    ]


def resamples_for(n_tests: int) -> int:
    """Number of sign patterns at which one of ``n_tests`` can be significant when corrected."""
    return max(RESAMPLES, round(n_tests / LEVEL) + 1)


def is_close(p_value: float, corrected: float, n_resamples: int) -> bool:
    """Return True if another draw of sign patterns could put a p-value across ``LEVEL``.

    Args:
        p_value: Of a test with drawn sign patterns.
        corrected: The p-value after the correction for its family; the same one where the test
            corrects itself.
        n_resamples: Sign patterns drawn.
    """
    error = math.sqrt(p_value * (1 - p_value) / n_resamples)
    return abs(corrected - LEVEL) <= _CLOSE_ERRORS * error * corrected / p_value


def overall(table: ScoreTable) -> dict[str, Array]:
    """Overall mean of every run (within a domain, then across), shape (...)."""
    weights = task_weights(table.domains, table.groups)
    each = np.array([weights[task] for task in table.domains])
    return {run: table.run(run) @ each for run in table.runs}


def best_of(panel: Panel, runs: Sequence[str]) -> str:
    """Run with the highest overall mean, such as the best expert; the first of equals.

    Chosen on the same data, hence biased upward; beating it is a conservative result.
    """
    means = overall(panel.observed())
    return max(runs, key=lambda run: float(means[run]))


def win_probabilities(
    panel: Panel,
    runs: Sequence[str],
    rivals: Sequence[str],
    *,
    n_resamples: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Probability of every run to be better than each rival, by their overall means.

    Args:
        panel: The runs and their documents.
        runs: Labels.
        rivals: Labels of the runs to compare with.
        n_resamples: Bootstrap draws, at least 2.
        seed: Same seed, same numbers.

    Returns:
        Run to rival to the share of draws in which the run is ahead; ties count half. Time
        grows with the number of runs, memory does not.

    Raises:
        ValueError: If a run is not on the panel.
    """
    if unknown := sorted({*runs, *rivals} - set(panel.runs)):
        raise ValueError(f"runs are {sorted(panel.runs)}, got {unknown}")
    if not rivals:
        return {run: {} for run in runs}
    place = {run: i for i, run in enumerate(panel.runs)}
    columns, against = [place[run] for run in runs], [place[rival] for rival in rivals]
    balance = np.zeros((len(runs), len(rivals)))
    for means in bootstrap_means(panel, n_resamples=n_resamples, seed=seed):
        for column, rival in enumerate(against):
            balance[:, column] += _balance(means[:, columns] - means[:, [rival]])
    probabilities = (1 + balance / n_resamples) / 2
    return {
        run: dict(zip(rivals, row, strict=True))
        for run, row in zip(runs, probabilities.tolist(), strict=True)
    }


def _comparison(
    pair: tuple[str, str],
    observed: Mapping[str, Array],
    resampled: Mapping[str, Array],
    p_value: float,
) -> Comparison:
    first, second = pair
    differences = resampled[first] - resampled[second]
    low, high = np.quantile(differences, [LEVEL / 2, 1 - LEVEL / 2])
    return Comparison(
        first=first,
        second=second,
        difference=Estimate(
            value=float(observed[first] - observed[second]),
            stderr=float(differences.std(ddof=1)),
        ),
        low=float(low),
        high=float(high),
        probability=float((1 + _balance(differences) / len(differences)) / 2),
        p_value=p_value,
    )


def _balance(differences: Array) -> Array:
    """Number of positive less number of negative differences, along the first axis."""
    ahead, behind = differences > _SAME, differences < -_SAME
    balance: Array = ahead.sum(axis=0) - behind.sum(axis=0)
    return balance
