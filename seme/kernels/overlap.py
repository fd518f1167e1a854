"""Elements that several task vectors change, or one alone: counted, and added, on the CPU."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled, flat, rows

_Floats = NDArray[np.float32]
_Doubles = NDArray[np.float64]
_Numbers = NDArray[np.int32]
_RUN = 1024
"""Elements at a time: a few float64 rows of this length fit a core's L1 cache."""


def count(pivot: Tensor, sources: Sequence[Tensor], epsilon: float) -> list[tuple[int, int]]:
    """Count, per source, the elements that it changes and others too, and those it alone changes.

    Args:
        pivot: float32, any shape.
        sources: Of that shape.
        epsilon: Magnitude up to which an element of a task vector counts as unchanged.
    """
    counts = np.zeros((len(sources), 2), dtype=np.int64)
    _count(flat(pivot), rows(sources), epsilon, counts)
    return [(shared, alone) for shared, alone in counts.tolist()]


def add(
    pivot: Tensor, sources: Sequence[Tensor], epsilon: float, scales: Sequence[float]
) -> Tensor:
    """Add what several sources change as their mean, and what one alone changes times its scale.

    Args:
        pivot: As in :func:`count`; likewise the sources and ``epsilon``.
        sources: Added in their order, in float64.
        epsilon: Elements up to it are not in the mean.
        scales: One per source.

    Returns:
        float32 of the pivot's shape, rounded once. Where the change is zero the pivot's bits stay.
    """
    merged = torch.empty(pivot.shape)
    factors = np.array(scales, dtype=np.float64)
    _add(flat(pivot), rows(sources), epsilon, factors, flat(merged))
    return merged


@compiled
def _count(pivot: _Floats, sources: _Floats, epsilon: float, counts: NDArray[np.int64]) -> None:
    n_sources, n = sources.shape
    numbers, tv = np.empty(_RUN, dtype=np.int32), np.empty((n_sources, _RUN))
    for start in range(0, n, _RUN):
        stop = min(start + _RUN, n)
        n_changing, values = numbers[: stop - start], tv[:, : stop - start]
        n_changing[:] = 0
        for k in range(n_sources):
            _subtract(sources[k, start:stop], pivot[start:stop], values[k])
            _add_changed(values[k], epsilon, n_changing)
        for k in range(n_sources):
            shared, alone = _count_changed(values[k], epsilon, n_changing)
            counts[k, 0] += shared
            counts[k, 1] += alone


@compiled
def _subtract(source: _Floats, pivot: _Floats, out: _Doubles) -> None:
    for i in range(len(out)):
        out[i] = np.float64(source[i]) - np.float64(pivot[i])


@compiled
def _add_changed(values: _Doubles, epsilon: float, n_changing: _Numbers) -> None:
    for i in range(len(values)):
        n_changing[i] += np.int32(abs(values[i]) > epsilon)


@compiled
def _count_changed(values: _Doubles, epsilon: float, n_changing: _Numbers) -> tuple[int, int]:
    shared, alone = 0, 0
    for i in range(len(values)):
        changed = abs(values[i]) > epsilon
        alone += changed & (n_changing[i] == 1)
        shared += changed & (n_changing[i] != 1)
    return shared, alone


@compiled
def _add(
    pivot: _Floats, sources: _Floats, epsilon: float, scales: _Doubles, out: _Floats
) -> None:
    n_sources, n = sources.shape
    numbers, tv = np.empty(_RUN, dtype=np.int32), np.empty((n_sources, _RUN))
    sums = np.empty(_RUN)
    for start in range(0, n, _RUN):
        stop = min(start + _RUN, n)
        n_changing, values = numbers[: stop - start], tv[:, : stop - start]
        change = sums[: stop - start]
        n_changing[:] = 0
        change[:] = 0.0
        for k in range(n_sources):
            _subtract(sources[k, start:stop], pivot[start:stop], values[k])
            _add_changed(values[k], epsilon, n_changing)
        for k in range(n_sources):
            _add_share(values[k], epsilon, n_changing, scales[k], change)
        _add_to_pivot(pivot[start:stop], change, out[start:stop])


@compiled
def _add_share(
    values: _Doubles, epsilon: float, n_changing: _Numbers, scale: float, change: _Doubles
) -> None:
    for i in range(len(values)):
        mean = values[i] / np.float64(n_changing[i])
        share = values[i] * scale if n_changing[i] == 1 else mean
        change[i] += share if abs(values[i]) > epsilon else 0.0


@compiled
def _add_to_pivot(pivot: _Floats, change: _Doubles, out: _Floats) -> None:
    for i in range(len(pivot)):
        merged = np.float32(np.float64(pivot[i]) + change[i])
        out[i] = pivot[i] if change[i] == 0.0 else merged
