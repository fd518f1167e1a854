"""Weighted sums of task vectors, with and without sign election, on the CPU."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled, flat, rows

_Floats = NDArray[np.float32]
_Doubles = NDArray[np.float64]
_Flags = NDArray[np.bool_]
_RUN = 1024
"""Elements at a time: a few float64 rows of this length fit a core's L1 cache."""


def mean(sources: Sequence[Tensor], weights: Sequence[float], divisor: float) -> Tensor:
    """See :func:`seme.elementwise.weighted_mean`."""
    merged = torch.empty(sources[0].shape)
    _mean(rows(sources), np.array(weights, dtype=np.float64), divisor, flat(merged))
    return merged


def add_weighted(
    pivot: Tensor,
    sources: Sequence[Tensor],
    weights: Sequence[float],
    scale: float,
    kept: Tensor | None,
) -> Tensor:
    """See :func:`seme.elementwise.add_weighted`."""
    merged = torch.empty(pivot.shape)
    factors = np.array(weights, dtype=np.float64)
    _add_weighted(flat(pivot), rows(sources), factors, scale, _flags(kept, pivot), flat(merged))
    return merged


def add_signed(
    pivot: Tensor,
    sources: Sequence[Tensor],
    weights: Sequence[float],
    scale: float,
    kept: Tensor | None,
    divide: bool,
) -> tuple[Tensor, int, int]:
    """See :func:`seme.elementwise.add_signed`."""
    merged = torch.empty(pivot.shape)
    factors = np.array(weights, dtype=np.float64)
    n_values, n_survivors = _add_signed(
        flat(pivot), rows(sources), factors, scale, _flags(kept, pivot), divide, flat(merged)
    )
    return merged, n_values, n_survivors


def _flags(kept: Tensor | None, like: Tensor) -> _Flags:
    """Flatten a mask to rows: one for all sources or one for each."""
    if kept is None:
        return np.ones((1, like.numel()), dtype=np.bool_)
    flags: _Flags = kept.reshape(len(kept), -1).numpy()
    return flags


@compiled
def _mean(sources: _Floats, weights: _Doubles, divisor: float, out: _Floats) -> None:
    n_sources, n = sources.shape
    sums = np.empty(_RUN)
    for start in range(0, n, _RUN):
        stop = min(start + _RUN, n)
        total = sums[: stop - start]
        total[:] = 0.0
        for k in range(n_sources):
            _accumulate(sources[k, start:stop], weights[k], total)
        _divide(total, divisor, out[start:stop])


@compiled
def _accumulate(values: _Floats, weight: float, total: _Doubles) -> None:
    for i in range(len(values)):
        total[i] += np.float64(values[i]) * weight


@compiled
def _divide(total: _Doubles, divisor: float, out: _Floats) -> None:
    for i in range(len(total)):
        out[i] = np.float32(total[i] / divisor)


@compiled
def _add_weighted(
    pivot: _Floats,
    sources: _Floats,
    weights: _Doubles,
    scale: float,
    kept: _Flags,
    out: _Floats,
) -> None:
    n_sources, n = sources.shape
    n_flags = len(kept)
    bases, sums = np.empty(_RUN), np.empty(_RUN)
    for start in range(0, n, _RUN):
        stop = min(start + _RUN, n)
        base, change = bases[: stop - start], sums[: stop - start]
        _begin(pivot[start:stop], base, change)
        for k in range(n_sources):
            flags = kept[k % n_flags, start:stop]
            _add_task_vector(sources[k, start:stop], base, weights[k], flags, change)
        _add_to_pivot(pivot[start:stop], base, change, scale, out[start:stop])


@compiled
def _begin(pivot: _Floats, base: _Doubles, total: _Doubles) -> None:
    for i in range(len(pivot)):
        base[i] = pivot[i]
        total[i] = 0.0


@compiled
def _add_task_vector(
    source: _Floats, base: _Doubles, weight: float, kept: _Flags, change: _Doubles
) -> None:
    for i in range(len(source)):
        value = (np.float64(source[i]) - base[i]) * weight
        change[i] += value if kept[i] else 0.0


@compiled
def _add_to_pivot(
    pivot: _Floats, base: _Doubles, change: _Doubles, scale: float, out: _Floats
) -> None:
    for i in range(len(pivot)):
        added = change[i] * scale
        out[i] = pivot[i] if added == 0.0 else np.float32(base[i] + added)


@compiled
def _add_signed(
    pivot: _Floats,
    sources: _Floats,
    weights: _Doubles,
    scale: float,
    kept: _Flags,
    divide: bool,
    out: _Floats,
) -> tuple[int, int]:
    n_sources, n = sources.shape
    n_flags = len(kept)
    rows = np.empty((n_sources, _RUN))
    bases, signs, changes, shares = (
        np.empty(_RUN),
        np.empty(_RUN),
        np.empty(_RUN),
        np.empty(_RUN),
    )
    n_values, n_survivors = 0, 0
    for start in range(0, n, _RUN):
        stop = min(start + _RUN, n)
        m = stop - start
        base, sign, change, share = bases[:m], signs[:m], changes[:m], shares[:m]
        _begin(pivot[start:stop], base, sign)
        for k in range(n_sources):
            flags = kept[k % n_flags, start:stop]
            n_values += _task_vector(sources[k, start:stop], base, flags, rows[k, :m], sign)
        _elect(sign, change, share)
        for k in range(n_sources):
            n_survivors += _add_survivors(rows[k, :m], sign, weights[k], change, share)
        if divide:
            _divide_by(share, change)
        _restore(sign, change)
        _add_to_pivot(pivot[start:stop], base, change, scale, out[start:stop])
    return n_values, n_survivors


@compiled
def _task_vector(
    source: _Floats, base: _Doubles, kept: _Flags, values: _Doubles, total: _Doubles
) -> int:
    n_values = 0
    for i in range(len(source)):
        value = np.float64(source[i]) - base[i]
        value = value if kept[i] else 0.0
        values[i] = value
        total[i] += value
        n_values += value != 0.0
    return n_values


@compiled
def _elect(total: _Doubles, change: _Doubles, share: _Doubles) -> None:
    for i in range(len(total)):
        total[i] = np.float64(total[i] > 0.0) - np.float64(total[i] < 0.0)
        change[i] = 0.0
        share[i] = 0.0


@compiled
def _add_survivors(
    values: _Doubles, sign: _Doubles, weight: float, change: _Doubles, share: _Doubles
) -> int:
    n_survivors = 0
    for i in range(len(values)):
        size = values[i] * sign[i]
        change[i] += size * weight if size > 0.0 else 0.0
        share[i] += weight if size > 0.0 else 0.0
        n_survivors += size > 0.0
    return n_survivors


@compiled
def _divide_by(share: _Doubles, change: _Doubles) -> None:
    for i in range(len(share)):
        change[i] = change[i] / share[i] if share[i] > 0.0 else 0.0


@compiled
def _restore(sign: _Doubles, change: _Doubles) -> None:
    for i in range(len(sign)):
        change[i] *= sign[i]
