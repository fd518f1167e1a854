"""Errors of the paired differences of every two runs, for each column of a table and the mean."""

from dataclasses import dataclass

import numpy as np

from eval.statistics.resampling import bootstrap
from eval.statistics.samples import Array, Panel
from eval.statistics.scores import columns_of, task_weights


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedErrors:
    """Standard errors of the differences of every two runs of a panel, in fractions."""

    mean: Array
    """Errors of differences of overall means; symmetric, shape (n_runs, n_runs)."""
    columns: dict[str, Array]
    """Task, or group, to those of its scores; each of the same shape."""


def paired_errors(panel: Panel, *, n_resamples: int, seed: int) -> PairedErrors:
    """Compute the bootstrap standard error of every paired difference.

    Both runs are scored on the same draws of documents, as in ``compare``: what makes a document
    hard for both cancels. The error of a difference is taken from the covariance of the draws,
    Var(x - y) = Var(x) + Var(y) - 2 Cov(x, y), with ddof 1.

    Args:
        panel: The runs and their documents.
        n_resamples: Bootstrap draws, at least 2.
        seed: Same seed, same draws.

    Raises:
        ValueError: If ``n_resamples`` is below 2.
    """
    drawn = bootstrap(panel, n_resamples=n_resamples, seed=seed).values
    place = {task: i for i, task in enumerate(panel.domains)}

    def errors(shares: dict[str, float]) -> Array:
        tasks = [place[task] for task in shares]
        return _errors(drawn[:, :, tasks] @ np.array([*shares.values()]))

    return PairedErrors(
        mean=errors(task_weights(panel.domains, panel.groups)),
        columns={n: errors(s) for n, s in columns_of(panel.domains, panel.groups).items()},
    )


def _errors(draws: Array) -> Array:
    """Standard errors of the differences of every two columns, shape (n_runs, n_runs)."""
    centred = draws - draws.mean(axis=0)
    covariance = centred.T @ centred / (len(draws) - 1)
    variance = np.diag(covariance)
    squares = variance[:, None] + variance[None, :] - 2 * covariance
    errors: Array = np.sqrt(np.maximum(squares, 0.0))  # rounding, of runs that are equal
    return errors
