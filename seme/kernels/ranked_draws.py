"""Random dropping by rank within rows, and the mean of what agrees in sign, on the CPU."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled, flat

_Floats = NDArray[np.float32]
_Doubles = NDArray[np.float64]
_Keys = NDArray[np.int64]
_Words = NDArray[np.uint64]
_RUN = 1024
"""Elements at a time: a few float64 rows of this length fit a core's L1 cache."""
_HALF = np.int64(32)
_LOWER = np.int64((1 << 32) - 1)
_UNUSED_BITS = np.uint64(11)


def add_pruned(
    pivot: Tensor,
    sources: Sequence[Tensor],
    draws: Sequence[_Words],
    limits: _Words,
    inverses: _Doubles,
    scale: float,
) -> Tensor:
    """See :func:`baselines.della.add_pruned`.

    Args:
        pivot: float32 rows, (n_rows, n_columns), contiguous.
        sources: Likewise.
        draws: Per source one word per row and rank.
        limits: By rank; a draw whose upper 53 bits are smaller keeps the element.
        inverses: By rank, the factor of an element that is kept.
        scale: Of the mean.
    """
    merged = torch.empty_like(pivot)
    pruned = np.empty((len(sources), pivot.numel()))
    keys = np.empty(pivot.shape, dtype=np.int64)
    for values, source, words in zip(pruned, sources, draws, strict=True):
        _keys(pivot.numpy(), source.numpy(), keys)
        keys.sort(axis=1)
        _prune(flat(pivot), flat(source), keys, words, limits, inverses, values)
    _add_disjoint_mean(flat(pivot), pruned, scale, flat(merged))
    return merged


@compiled
def _keys(pivot: _Floats, source: _Floats, out: _Keys) -> None:
    """Order the elements of each row by magnitude, equal ones by index."""
    tv = np.empty(pivot.shape[1], dtype=np.float32)
    bits = tv.view(np.int32)
    for row in range(len(pivot)):
        for i in range(len(tv)):
            tv[i] = abs(source[row, i] - pivot[row, i])
        for i in range(len(tv)):
            out[row, i] = (np.int64(bits[i]) << _HALF) | np.int64(i)


@compiled
def _prune(
    pivot: _Floats,
    source: _Floats,
    keys: _Keys,
    draws: _Words,
    limits: _Words,
    inverses: _Doubles,
    out: _Doubles,
) -> None:
    """Multiply each task vector's element by the factor that was drawn for its rank."""
    n_rows, n_columns = keys.shape
    for row in range(n_rows):
        first = row * n_columns
        for rank in range(n_columns):
            place = first + (keys[row, rank] & _LOWER)
            value = np.float64(source[place]) - np.float64(pivot[place])
            kept = (draws[row, rank] >> _UNUSED_BITS) < limits[rank]
            out[place] = value * (inverses[rank] if kept else 0.0)


@compiled
def _add_disjoint_mean(pivot: _Floats, pruned: _Doubles, scale: float, out: _Floats) -> None:
    n_sources, n = pruned.shape
    signs, totals, counts = np.empty(_RUN), np.empty(_RUN), np.empty(_RUN)
    for start in range(0, n, _RUN):
        stop = min(start + _RUN, n)
        sign, total, count = (
            signs[: stop - start],
            totals[: stop - start],
            counts[: stop - start],
        )
        _elect(pruned[:, start:stop], sign, total, count)
        for k in range(n_sources):
            _add_agreeing(pruned[k, start:stop], sign, total, count)
        _add_mean(pivot[start:stop], sign, total, count, scale, out[start:stop])


@compiled
def _elect(pruned: _Doubles, sign: _Doubles, total: _Doubles, count: _Doubles) -> None:
    sign[:] = pruned[0]
    for k in range(1, len(pruned)):
        for i in range(len(sign)):
            sign[i] += pruned[k, i]
    for i in range(len(sign)):
        sign[i] = np.sign(sign[i])
        total[i] = 0.0
        count[i] = 0.0


@compiled
def _add_agreeing(values: _Doubles, sign: _Doubles, total: _Doubles, count: _Doubles) -> None:
    for i in range(len(values)):
        size = max(values[i] * sign[i], 0.0)
        total[i] += size
        count[i] += 1.0 if size > 0.0 else 0.0


@compiled
def _add_mean(
    pivot: _Floats,
    sign: _Doubles,
    total: _Doubles,
    count: _Doubles,
    scale: float,
    out: _Floats,
) -> None:
    for i in range(len(pivot)):
        change = scale * (total[i] / max(count[i], 1.0) * sign[i])
        merged = np.float32(np.float64(pivot[i]) + change)
        out[i] = pivot[i] if change == 0.0 else merged
