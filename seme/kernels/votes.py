"""Votes of task vectors for the elements that matter to them, on the CPU."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled, flat, rows

_Floats = NDArray[np.float32]
_Doubles = NDArray[np.float64]
_Flags = NDArray[np.bool_]
_Numbers = NDArray[np.int32]
_RUN = 1024
"""Elements at a time: a few float64 rows of this length fit a core's L1 cache."""


def enough(
    pivot: Tensor, sources: Sequence[Tensor], threshold: float, min_votes: int
) -> Tensor:
    """Mark the elements with at least ``min_votes`` votes; see :mod:`baselines.consensus`.

    Args:
        pivot: float32, any shape.
        sources: Of that shape; summed in their order.
        threshold: Of a task vector's magnitude, in magnitudes of the sum of the others.
        min_votes: At least 1.

    Returns:
        Booleans of that shape.
    """
    marked = torch.empty(pivot.shape, dtype=torch.bool)
    _enough(flat(pivot), rows(sources), threshold, min_votes, marked.view(-1).numpy())
    return marked


@compiled
def _enough(
    pivot: _Floats, sources: _Floats, threshold: float, min_votes: int, out: _Flags
) -> None:
    n_sources, n = sources.shape
    tv, sums = np.empty((n_sources, _RUN)), np.empty(_RUN)
    numbers = np.empty(_RUN, dtype=np.int32)
    for start in range(0, n, _RUN):
        stop = min(start + _RUN, n)
        values, total = tv[:, : stop - start], sums[: stop - start]
        votes = numbers[: stop - start]
        votes[:] = 0
        total[:] = 0.0
        for k in range(n_sources):
            _subtract(sources[k, start:stop], pivot[start:stop], values[k], total)
        for k in range(n_sources):
            _vote(values[k], total, threshold, votes)
        _compare(votes, min_votes, out[start:stop])


@compiled
def _subtract(source: _Floats, pivot: _Floats, out: _Doubles, total: _Doubles) -> None:
    for i in range(len(out)):
        out[i] = np.float64(source[i]) - np.float64(pivot[i])
        total[i] += out[i]


@compiled
def _vote(values: _Doubles, total: _Doubles, threshold: float, votes: _Numbers) -> None:
    for i in range(len(values)):
        votes[i] += np.int32(abs(values[i]) > threshold * abs(total[i] - values[i]))


@compiled
def _compare(votes: _Numbers, min_votes: int, out: _Flags) -> None:
    for i in range(len(votes)):
        out[i] = votes[i] >= min_votes
