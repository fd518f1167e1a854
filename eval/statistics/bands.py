"""Rank bands: merges grouped so that no band claims a difference that is not significant.

The tests of each run against the leader of a band decide, but the leader is chosen from the
same scores, so any pair may be looked at. All pairs are corrected for together, by the
step-down maxT procedure (Westfall and Young, Resampling-Based Multiple Testing, 1993, algorithm
4.1; Romano and Wolf, Exact and approximate stepdown methods for multiple hypothesis testing,
2005). Whichever runs are equal, the family-wise error is at most the level, up to the symmetry
of their joint differences: ``python -m scripts.benchmark.rank_bands`` simulates it. One set of
random signs serves all runs: the number of draws does not grow with the number of runs, and a
pair costs one subtraction of sums already drawn.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eval.statistics.compare import CLOSE_RESAMPLES, LEVEL, NEGLIGIBLE, is_close
from eval.statistics.resampling import flip_signs
from eval.statistics.samples import Array, MatchedTask, Panel
from eval.statistics.scores import task_weights

_LN2 = float(np.log(2))

_ROUNDING = 1e-4
"""Relative rounding of a float32 statistic: this close to the observed one, it counts."""


def rank_bands(
    panel: Panel, ranked: Sequence[str], *, n_resamples: int, seed: int
) -> dict[str, int]:
    """Group runs into bands that paired tests over their documents keep apart at 5 %.

    Args:
        panel: The runs and their documents; may hold further runs.
        ranked: Labels of the runs, best mean first.
        n_resamples: Number of sign patterns, whatever the number of runs; ``CLOSE_RESAMPLES``
            where a p-value is close to the level.
        seed: Same seed, same bands.

    Returns:
        Label to band, from 1, in the order of ``ranked``.

    Raises:
        ValueError: If ``n_resamples`` is below 1 or a run is not on the panel.
    """
    p_values = pair_p_values(panel, ranked, n_resamples=n_resamples, seed=seed)
    if any(is_close(p, p, n_resamples) for p in p_values[np.triu_indices(len(ranked), 1)]):
        n_drawn = max(n_resamples, CLOSE_RESAMPLES)
        p_values = pair_p_values(panel, ranked, n_resamples=n_drawn, seed=seed)
    bands = group_by_leader(p_values < LEVEL)
    return dict(zip(ranked, bands, strict=True))


def group_by_leader(differs: NDArray[np.bool_]) -> list[int]:
    """Open a band for the best run that has none, with all that do not differ from it; repeat.

    So every run is significantly worse than the leader of each band above its own. Two runs of
    one band need not be equal, and a noisy run may share a band with the leader although a
    run ranked between them does not.

    Args:
        differs: Significant differences, symmetric, shape (n_runs, n_runs), best run first.

    Returns:
        Band of each run, from 1.
    """
    bands = np.zeros(len(differs), dtype=np.int64)
    while not bands.all():
        leader = int(np.argmin(bands))
        joins = (bands == 0) & ~differs[leader]
        joins[leader] = True
        bands[joins] = bands.max() + 1
    return [int(band) for band in bands]


def pair_p_values(panel: Panel, runs: Sequence[str], *, n_resamples: int, seed: int) -> Array:
    """Adjusted p-values of all pairs' differences of the overall mean, two-sided.

    The statistic of a pair is the absolute difference over its standard error, both by
    ``contributions``; 0 where the difference is negligible. Signs are flipped together for all
    runs on a document: differences of equal runs are symmetric. The statistic is at most the
    root of the number of documents on which two runs differ, so a pair with few of them needs
    no exact enumeration to be judged with caution.

    Args:
        panel: The runs and their documents; may hold further runs.
        runs: Labels of the runs to compare; they are the family.
        n_resamples: m, at least 1; no p-value is below 1 / (m + 1).
        seed: Same seed, same p-values.

    Returns:
        Symmetric, 1 on the diagonal, shape (n_runs, n_runs). Beyond the draws, a pair takes
        about ten microseconds with 10,000 sign patterns.

    Raises:
        ValueError: If ``n_resamples`` is below 1 or a run is not on the panel.
    """
    if len(runs) < 2:
        return np.ones((len(runs), len(runs)))
    values = contributions(panel, runs)
    differences, scales = pair_statistics(np.concatenate(list(values.values())))
    centred = {name: v - v.mean(axis=1, keepdims=True) for name, v in values.items()}
    sums = flip_signs(centred, n_resamples=n_resamples, seed=seed)
    return _step_down(sums, differences, scales)


def contributions(panel: Panel, runs: Sequence[str]) -> dict[str, Array]:
    """Task to the part of each document in the overall means, shape (n_documents, n_runs).

    Over all documents they add up to the overall mean. For means of documents they are exact;
    2 ** -bits_per_byte is replaced by its tangent at the run's own bits per byte (the
    delta method).

    Raises:
        ValueError: If a run is not on the panel.
    """
    if unknown := sorted(set(runs) - set(panel.runs)):
        raise ValueError(f"runs are {sorted(panel.runs)}, got {unknown}")
    places = [panel.runs.index(run) for run in runs]
    weights = task_weights(panel.domains, panel.groups)
    return {name: weights[name] * _of_task(task, places) for name, task in panel.tasks.items()}


def _of_task(task: MatchedTask, places: Sequence[int]) -> Array:
    """Parts of the documents in the scores of the runs in these places."""
    totals, size = task.totals[places].T, task.sizes.sum()
    ratios = totals.sum(axis=0) / size
    scores = task.scores(totals.sum(axis=0), size)
    slopes = -_LN2 * scores if task.is_bits else np.ones_like(scores)
    sizes = task.sizes[:, None]
    parts: Array = (scores * sizes + slopes * (totals - ratios * sizes)) / size
    return parts


def pair_statistics(values: Array) -> tuple[Array, Array]:
    """Absolute differences of the sums, and one over their standard errors under sign flips.

    Args:
        values: Shape (n_documents, n_runs).

    Returns:
        Two of shape (n_runs, n_runs); the second is 0 where two runs are the same.
    """
    totals = values.sum(axis=0)
    centred = values - values.mean(axis=1, keepdims=True)
    products = centred.T @ centred
    norms = np.diag(products)
    squares = np.maximum(0.0, norms[:, None] + norms - 2 * products)
    scales = np.divide(1.0, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0)
    return np.abs(totals[:, None] - totals), scales


def _step_down(sums: NDArray[np.float32], differences: Array, scales: Array) -> Array:
    """Step-down maxT p-values: each pair against the maximum over it and smaller statistics.

    Args:
        sums: Sums with flipped signs, shape (n_runs, n_resamples).
        differences: Observed, absolute, shape (n_runs, n_runs).
        scales: One over the standard errors, shape (n_runs, n_runs).

    Returns:
        Shape (n_runs, n_runs).
    """
    n_runs, n_resamples = sums.shape
    pairs = np.triu_indices(n_runs, 1)
    observed = np.where(differences < NEGLIGIBLE, 0.0, differences * scales)[pairs]
    order = np.argsort(observed)
    largest, swing = np.zeros((2, n_resamples), dtype=np.float32)
    reached = np.zeros(len(order), dtype=np.int64)
    for k in order:
        i, j = pairs[0][k], pairs[1][k]
        _flipped_statistic(sums[i], sums[j], float(scales[i, j]), out=swing)
        np.maximum(largest, swing, out=largest)
        needed = float(observed[k]) * (1 - _ROUNDING)
        reached[k] = np.count_nonzero(largest >= needed)
    largest_first = order[::-1]
    p_values = np.ones((n_runs, n_runs))
    p_values[pairs[0][largest_first], pairs[1][largest_first]] = np.maximum.accumulate(
        reached[largest_first] + 1
    ) / (n_resamples + 1)
    return np.minimum(p_values, p_values.T)


def _flipped_statistic(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    scale: float,
    *,
    out: NDArray[np.float32],
) -> None:
    """Absolute differences over their standard error; negligible ones count as 0."""
    np.subtract(first, second, out=out)
    np.abs(out, out=out)
    if scale * NEGLIGIBLE > 1:  # elsewhere a negligible difference is within the noise anyway
        out[out < NEGLIGIBLE] = 0
    np.multiply(out, scale, out=out)
