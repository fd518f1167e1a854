"""Paired resampling of documents: a stratified bootstrap and a sign-flip permutation test.

Both treat the documents of each task as a sample of their own, and draw every task from a
generator seeded by (seed, task): the draws depend neither on which runs are compared nor on
the order of tasks.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.statistics.samples import Array, MatchedTask, Panel, ScoreTable
from eval.statistics.scores import task_weights

RESAMPLES = 10_000
"""Bootstrap draws and sign patterns behind every table and report, unless it says otherwise."""

SEED = 0
"""Seed of the draws behind every table and report."""

_BLOCK_ELEMENTS = 2**19
"""Resamples are drawn in blocks of so many (resample, document) pairs, for memory."""

_SAME = 1e-12
"""Statistics this close are ties: rounding does not decide."""


def bootstrap(panel: Panel, *, n_resamples: int, seed: int) -> ScoreTable:
    """Score all runs again on documents drawn with replacement, the same ones for every run.

    Each resample draws, within every task, as many documents as it has (Efron and Tibshirani,
    An Introduction to the Bootstrap, 1993, chapter 8, several samples). The headline score is
    computed anew from each draw, so ratios such as bits per byte are resampled as ratios.

    Args:
        panel: The runs and their documents.
        n_resamples: At least 2.
        seed: Same seed, same draws.

    Returns:
        Scores of shape (n_resamples, n_runs, n_tasks).

    Raises:
        ValueError: If ``n_resamples`` is below 2.
    """
    _check_n_resamples(n_resamples, least=2)
    values = np.empty((n_resamples, len(panel.runs), len(panel.tasks)))
    for column, (name, task) in enumerate(panel.tasks.items()):
        rng, n = _generator(seed, name), len(task.sizes)
        for rows in _blocks(n_resamples, n):
            counts = _draw_counts(rng, rows.stop - rows.start, n)
            sizes = counts @ task.sizes
            values[rows, :, column] = task.scores(counts @ task.totals.T, sizes[:, None])
    return ScoreTable(values=values, runs=panel.runs, domains=panel.domains)


def bootstrap_means(panel: Panel, *, n_resamples: int, seed: int) -> Iterator[Array]:
    """Overall means (within a domain, then across) of the draws of ``bootstrap``, in blocks.

    Memory is that of one block, whatever the number of resamples and tasks.

    Args:
        panel: The runs and their documents.
        n_resamples: At least 2.
        seed: Same seed, same draws.

    Yields:
        Arrays of shape (n_rows, n_runs), ``n_resamples`` rows in all.

    Raises:
        ValueError: If ``n_resamples`` is below 2.
    """
    _check_n_resamples(n_resamples, least=2)
    weights = task_weights(panel.domains)
    rngs = {name: _generator(seed, name) for name in panel.tasks}
    widest = max(len(panel.runs), *(len(task.sizes) for task in panel.tasks.values()))
    for rows in _blocks(n_resamples, widest):
        means = np.zeros((rows.stop - rows.start, len(panel.runs)))
        for name, task in panel.tasks.items():
            counts = _draw_counts(rngs[name], len(means), len(task.sizes))
            sizes = counts @ task.sizes
            means += weights[name] * task.scores(counts @ task.totals.T, sizes[:, None])
        yield means


def flip_signs(
    values: Mapping[str, Array], *, n_resamples: int, seed: int
) -> NDArray[np.float32]:
    """Sum values over documents with random signs, one sign a document for all runs.

    Args:
        values: Task to values, shape (n_documents, n_runs); those of one document should be
            centred on zero, for float32.
        n_resamples: Number of sign patterns, at least 1.
        seed: Same seed, same signs; they are those of ``sign_flip_p_values``.

    Returns:
        Sums over the documents of all tasks, shape (n_runs, n_resamples).

    Raises:
        ValueError: If ``n_resamples`` is below 1.
    """
    _check_n_resamples(n_resamples, least=1)
    n_runs = next(iter(values.values())).shape[1]
    sums = np.zeros((n_runs, n_resamples), dtype=np.float32)
    for name, of_task in values.items():
        rng, transposed = _generator(seed, name), of_task.T.astype(np.float32)
        for rows in _blocks(n_resamples, max(of_task.shape)):
            signs = _draw_signs(rng, rows.stop - rows.start, len(of_task), np.float32)
            sums[:, rows] += transposed @ signs.T
    return sums


def sign_flip_p_values(
    panel: Panel, pairs: Sequence[tuple[str, str]], *, n_resamples: int, seed: int
) -> list[float]:
    """Test for each pair of runs that their overall means are equal, two-sided.

    Under the null hypothesis the two runs may be exchanged on any document. The statistic is
    the difference of the overall means (within a domain, then across), computed anew after
    each exchange. If the documents on which the runs differ have no more than ``n_resamples``
    sign patterns, all are enumerated and p is the share with a difference at least as large;
    otherwise patterns are drawn and p = (b + 1) / (m + 1) (Phipson and Smyth, Permutation
    p-values should never be zero, 2010, equation 2).

    Args:
        panel: The runs and their documents.
        pairs: Labels of two runs each.
        n_resamples: m, at least 1.
        seed: Same seed, same draws.

    Returns:
        One p-value per pair, in (0, 1].

    Raises:
        ValueError: If ``n_resamples`` is below 1 or a run is not on the panel.
    """
    _check_n_resamples(n_resamples, least=1)
    if unknown := sorted({run for pair in pairs for run in pair} - set(panel.runs)):
        raise ValueError(f"runs are {sorted(panel.runs)}, got {unknown}")
    most = n_resamples.bit_length() - 1
    exact = {
        i: _exact_p_value(panel, pair)
        for i, pair in enumerate(pairs)
        if _n_differing(panel, pair) <= most
    }
    drawn = [i for i in range(len(pairs)) if i not in exact]
    estimated = _drawn_p_values(panel, [pairs[i] for i in drawn], n_resamples, seed)
    p_values = exact | dict(zip(drawn, estimated, strict=True))
    return [p_values[i] for i in range(len(pairs))]


def _exact_p_value(panel: Panel, pair: tuple[str, str]) -> float:
    """Share of all sign patterns whose difference is at least the observed one."""
    n = _n_differing(panel, pair)
    patterns = 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    swings, start = {}, 0
    for name, task in panel.tasks.items():
        differences = _differences(panel, task, [pair])
        differing = differences[differences[:, 0] != 0]
        swings[name] = patterns[:, start : start + len(differing)] @ differing
        start += len(differing)
    sizes = np.abs(_statistics(panel, [pair], swings))
    return float(np.mean(sizes >= sizes[0] - _SAME))  # the first pattern exchanges nothing


def _drawn_p_values(
    panel: Panel, pairs: Sequence[tuple[str, str]], n_resamples: int, seed: int
) -> list[float]:
    """Share of drawn sign patterns, and the observed one, with a difference as large."""
    if not pairs:
        return []
    rngs = {name: _generator(seed, name) for name in panel.tasks}
    differences = {n: _differences(panel, task, pairs) for n, task in panel.tasks.items()}
    observed = {name: d.sum(axis=0, keepdims=True) for name, d in differences.items()}
    needed = np.abs(_statistics(panel, pairs, observed)) - _SAME
    reached = np.zeros(len(pairs), dtype=np.int64)
    for rows in _blocks(n_resamples, max(map(len, differences.values()))):
        swings = {
            name: _draw_signs(rngs[name], rows.stop - rows.start, len(of_task)) @ of_task
            for name, of_task in differences.items()
        }
        reached += (np.abs(_statistics(panel, pairs, swings)) >= needed).sum(axis=0)
    return [(int(b) + 1) / (n_resamples + 1) for b in reached]


def _statistics(
    panel: Panel, pairs: Sequence[tuple[str, str]], swings: Mapping[str, Array]
) -> Array:
    """Differences of overall means after exchanges, first minus second.

    Args:
        panel: The runs and their documents.
        pairs: Labels of two runs each.
        swings: Task to the difference of the totals, shape (n_patterns, n_pairs).

    Returns:
        Shape (n_patterns, n_pairs).
    """
    weights = task_weights(panel.domains)
    statistics = np.zeros(next(iter(swings.values())).shape)
    for name, task in panel.tasks.items():
        totals, size = task.totals.sum(axis=1), task.sizes.sum()
        sums = np.array([totals[i] + totals[j] for i, j in _places(panel, pairs)])
        first = task.scores((sums + swings[name]) / 2, size)
        statistics += weights[name] * (first - task.scores((sums - swings[name]) / 2, size))
    return statistics


def _differences(panel: Panel, task: MatchedTask, pairs: Sequence[tuple[str, str]]) -> Array:
    """First total minus second, shape (n_documents, n_pairs)."""
    first, second = zip(*_places(panel, pairs), strict=True)
    difference: Array = (task.totals[list(first)] - task.totals[list(second)]).T
    return difference


def _places(panel: Panel, pairs: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    place = {run: i for i, run in enumerate(panel.runs)}
    return [(place[first], place[second]) for first, second in pairs]


def _n_differing(panel: Panel, pair: tuple[str, str]) -> int:
    """Number of documents, over all tasks, on which two runs differ."""
    tasks = panel.tasks.values()
    return sum(int(np.count_nonzero(_differences(panel, task, [pair]))) for task in tasks)


def _draw_signs(
    rng: np.random.Generator, n_rows: int, n: int, dtype: type[np.floating[Any]] = np.float64
) -> NDArray[Any]:
    """Signs of n documents, each +1 or -1 with equal chance, shape (n_rows, n)."""
    signs = rng.integers(0, 2, (n_rows, n))
    signs *= -2
    signs += 1
    return signs.astype(dtype)


def _draw_counts(rng: np.random.Generator, n_rows: int, n: int) -> Array:
    """Number of times each of n documents is drawn in n draws, shape (n_rows, n)."""
    drawn = rng.integers(0, n, (n_rows, n))
    drawn += n * np.arange(n_rows)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=n_rows * n)
    return counts.reshape(n_rows, n).astype(np.float64)


def _blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    size = max(1, _BLOCK_ELEMENTS // n_columns)
    for block in range(math.ceil(n_rows / size)):
        yield slice(block * size, min(n_rows, (block + 1) * size))


def _check_n_resamples(n_resamples: int, *, least: int) -> None:
    if n_resamples < least:
        raise ValueError(f"n_resamples must be at least {least}, got {n_resamples}")


def _generator(seed: int, task: str) -> np.random.Generator:
    return np.random.default_rng([seed, *task.encode()])
