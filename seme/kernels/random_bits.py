"""Counter-based random bits (SplitMix64), sampled in any order, on any thread.

SplitMix64 (Steele, Lea, Flood, 2014, https://doi.org/10.1145/2714064.2660195): its i-th number
is a hash of i, so that no state has to be carried from one block to the next.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled

_Flags = NDArray[np.bool_]
_RUN = 1024
"""Samples at a time, a multiple of four."""
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_FINE = np.uint64(1 << 62)
"""Offset in the sequence of the numbers that refine a 16-bit sample to 48 bits."""


def bernoulli(seeds: Sequence[int], start: int, n: int, probability: float) -> Tensor:
    """Sample Bernoulli variables; every number of a sequence gives four, of 16 bits each.

    A sample whose 16 bits equal those of the probability is refined by 32 bits more.

    Args:
        seeds: One per sequence, in [0, 2 ** 64).
        start: Index of the first sample of each sequence.
        n: Number of samples.
        probability: Of true, in [0, 1], in steps of 2 ** -48.

    Returns:
        Booleans, (len(seeds), n).
    """
    edge, fine = divmod(round(probability * 2**48), 2**32)
    samples = np.empty((len(seeds), n), dtype=np.bool_)
    _bernoulli(np.array(seeds, dtype=np.uint64), start, edge, fine, samples)
    return torch.from_numpy(samples)


@compiled
def _bernoulli(
    seeds: NDArray[np.uint64], start: int, edge: int, fine: int, out: _Flags
) -> None:
    n = out.shape[1]
    ahead = min(-start % 4, n)
    for k in range(len(seeds)):
        _bernoulli_each(seeds[k], start, edge, fine, out[k, :ahead])
        for begin in range(ahead, n, _RUN):
            run = out[k, begin : min(begin + _RUN, n)]
            whole = len(run) // 4 * 4
            if _bernoulli_fours(seeds[k], start + begin, edge, run[:whole]):
                _bernoulli_each(seeds[k], start + begin, edge, fine, run)
            _bernoulli_each(seeds[k], start + begin + whole, edge, fine, run[whole:])


@compiled
def _bernoulli_fours(seed: np.uint64, start: int, edge: int, out: _Flags) -> bool:
    """Sample from whole numbers of a sequence; return whether a sample must be refined."""
    tied = False
    limit, first = np.uint64(edge), np.uint64(start // 4)
    for i in range(len(out) // 4):
        number = _number(seed, first + np.uint64(i))
        for lane in range(4):
            bits = (number >> np.uint64(16 * lane)) & np.uint64(0xFFFF)
            out[4 * i + lane] = bits < limit
            tied |= bits == limit
    return tied


@compiled
def _bernoulli_each(seed: np.uint64, start: int, edge: int, fine: int, out: _Flags) -> None:
    """Sample one by one, refined where needed."""
    for i in range(len(out)):
        place = start + i
        number = _number(seed, np.uint64(place // 4))
        bits = (number >> np.uint64(16 * (place % 4))) & np.uint64(0xFFFF)
        out[i] = bits < np.uint64(edge)
        if bits == np.uint64(edge):
            refined = _number(seed, _FINE + np.uint64(place)) >> np.uint64(32)
            out[i] = refined < np.uint64(fine)


@compiled
def _number(seed: np.uint64, index: np.uint64) -> np.uint64:
    """Compute the number of an index, from 0, of SplitMix64 with a seed."""
    z = seed + (index + np.uint64(1)) * _STEP
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))
