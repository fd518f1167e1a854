"""Which runs differ: paired differences, chances of winning, corrected tests, rank bands.

All of it is about the documents, as if others of the same kind had been drawn: the models are
taken as they are. How much a method varies with its seed needs runs at several seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.statistics.resampling import bootstrap, sign_flip_p_values
from eval.statistics.samples import Array, Panel, ScoreTable
from eval.statistics.scores import Estimate, holm, task_weights

LEVEL = 0.05
"""Share of false alarms allowed: 95 % intervals, and Holm-corrected p-values below this."""

NEGLIGIBLE = 5e-5
"""Differences below it are shown as 0.00 points and never called differences (ours): rounding of
weights moves all documents a little and alike, which a test over documents takes for certain."""

_SAME = 1e-12
"""Means closer than this differ by rounding only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is known of the difference between two runs on the same documents."""

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
    """Of the two-sided paired permutation test."""
    p_holm: float
    """The p-value, corrected for all the pairs compared together."""

    @property
    def differs(self) -> bool:
        """Whether the difference is significant after the correction, and not negligible."""
        return self.p_holm < LEVEL and abs(self.difference.value) >= NEGLIGIBLE


def compare(
    panel: Panel, pairs: Sequence[tuple[str, str]], *, n_resamples: int, seed: int
) -> list[Comparison]:
    """Compare pairs of runs by their overall means (within a domain, then across).

    Args:
        panel: The runs and their documents.
        pairs: Labels of two runs each; together they are the family that Holm's correction
            is for.
        n_resamples: Of the bootstrap and of the permutation test.
        seed: Same seed, same numbers; they do not depend on the other pairs, but for p_holm.

    Returns:
        One comparison per pair, in the order given.

    Raises:
        ValueError: If a run is not on the panel, or the resamples are too few for any pair to
            reach significance after the correction.
    """
    if n_resamples + 1 <= len(pairs) / LEVEL:
        raise ValueError(
            f"n_resamples must be at least {round(len(pairs) / LEVEL)} for {len(pairs)} pairs, "
            f"or no corrected p-value can be below {LEVEL}; got {n_resamples}"
        )
    p_values = sign_flip_p_values(panel, pairs, n_resamples=n_resamples, seed=seed)
    means = overall(bootstrap(panel, n_resamples=n_resamples, seed=seed))
    observed = overall(panel.observed())
    return [
        _comparison(pair, observed, means, p_value, p_holm)
        for pair, p_value, p_holm in zip(pairs, p_values, holm(p_values), strict=True)
    ]


def overall(table: ScoreTable) -> dict[str, Array]:
    """Overall mean of every run (within a domain, then across), shape (...)."""
    weights = task_weights(table.domains)
    each = np.array([weights[task] for task in table.domains])
    return {run: table.run(run) @ each for run in table.runs}


def best_of(panel: Panel, runs: Sequence[str]) -> str:
    """The run with the highest overall mean, such as the best expert; the first of equals.

    Chosen by the scores themselves, so it is flattered by chance: a merge that beats it does.
    """
    means = overall(panel.observed())
    return max(runs, key=lambda run: float(means[run]))


def rank_bands(ranked: Sequence[str], comparisons: Sequence[Comparison]) -> dict[str, int]:
    """Group runs so that no band claims a difference that is not significant.

    The rule (ours): the first run without a band starts one, and every later run without a
    band that is not significantly different from *this* run after Holm's correction joins it;
    then the next band starts. So every run is significantly behind the starter of each band
    above its own. Two runs of one band need not be equal, and a noisy run may share a band
    with the starter although a run ranked between them does not.

    Args:
        ranked: Labels of the runs, best mean first.
        comparisons: One for every pair of them, in either order, corrected together.

    Returns:
        Label to band, from 1, in the order of ``ranked``.

    Raises:
        ValueError: If a needed comparison is missing; names the runs.
    """
    differs = {frozenset((c.first, c.second)): c.differs for c in comparisons}
    bands: dict[str, int] = {}
    left, band = list(ranked), 0
    while left:
        band += 1
        joining = [run for run in left if run == left[0] or not _differs(differs, left[0], run)]
        bands |= dict.fromkeys(joining, band)
        left = [run for run in left if run not in joining]
    return {run: bands[run] for run in ranked}


def _differs(differs: Mapping[frozenset[str], bool], first: str, second: str) -> bool:
    pair = frozenset((first, second))
    if pair not in differs:
        raise ValueError(f"rank bands need a comparison of {first} and {second}, got none")
    return differs[pair]


def _comparison(
    pair: tuple[str, str],
    observed: Mapping[str, Array],
    means: Mapping[str, Array],
    p_value: float,
    p_holm: float,
) -> Comparison:
    first, second = pair
    differences = means[first] - means[second]
    low, high = np.quantile(differences, [LEVEL / 2, 1 - LEVEL / 2])
    ahead, behind = (differences > _SAME).mean(), (differences < -_SAME).mean()
    return Comparison(
        first=first,
        second=second,
        difference=Estimate(
            value=float(observed[first] - observed[second]),
            stderr=float(differences.std(ddof=1)),
        ),
        low=float(low),
        high=float(high),
        probability=float((1 + ahead - behind) / 2),
        p_value=p_value,
        p_holm=p_holm,
    )
