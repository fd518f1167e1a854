"""Random coins, each known by its place in a sequence: drawn in any order, on any thread.

SplitMix64 (Steele, Lea, Flood, 2014, https://doi.org/10.1145/2714064.2660195): its i-th number is
a hash of i, so that no state has to be carried from one block to the next.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled

_Flags = NDArray[np.bool_]
_RUN = 1024
"""Coins at a time, a multiple of four."""
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_FINE = np.uint64(1 << 62)
"""Where in the sequence those numbers stand that decide between two 16 bit coins."""


def toss(seeds: Sequence[int], start: int, n: int, probability: float) -> Tensor:
    """Toss coins; every number of a sequence gives four, of 16 bits each.

    A coin of 16 bits that is equal to the probability's is decided by 32 bits more.

    Args:
        seeds: Of every sequence, in [0, 2 ** 64).
        start: Which coin of each is the first.
        n: How many coins.
        probability: Of true, in [0, 1], in steps of 2 ** -48.

    Returns:
        Booleans, (len(seeds), n).
    """
    edge, fine = divmod(round(probability * 2**48), 2**32)
    found = np.empty((len(seeds), n), dtype=np.bool_)
    _toss(np.array(seeds, dtype=np.uint64), start, edge, fine, found)
    return torch.from_numpy(found)


@compiled
def _toss(seeds: NDArray[np.uint64], start: int, edge: int, fine: int, out: _Flags) -> None:
    n = out.shape[1]
    ahead = min(-start % 4, n)
    for k in range(len(seeds)):
        _toss_each(seeds[k], start, edge, fine, out[k, :ahead])
        for begin in range(ahead, n, _RUN):
            some = out[k, begin : min(begin + _RUN, n)]
            whole = len(some) // 4 * 4
            if _toss_fours(seeds[k], start + begin, edge, some[:whole]):
                _toss_each(seeds[k], start + begin, edge, fine, some)
            _toss_each(seeds[k], start + begin + whole, edge, fine, some[whole:])


@compiled
def _toss_fours(seed: np.uint64, start: int, edge: int, out: _Flags) -> bool:
    """Toss whole numbers of a sequence; tell whether a coin is still to be decided."""
    tied = False
    limit, first = np.uint64(edge), np.uint64(start // 4)
    for i in range(len(out) // 4):
        number = _number(seed, first + np.uint64(i))
        for lane in range(4):
            coin = (number >> np.uint64(16 * lane)) & np.uint64(0xFFFF)
            out[4 * i + lane] = coin < limit
            tied |= coin == limit
    return tied


@compiled
def _toss_each(seed: np.uint64, start: int, edge: int, fine: int, out: _Flags) -> None:
    for i in range(len(out)):
        place = start + i
        number = _number(seed, np.uint64(place // 4))
        coin = (number >> np.uint64(16 * (place % 4))) & np.uint64(0xFFFF)
        out[i] = coin < np.uint64(edge)
        if coin == np.uint64(edge):
            decided = _number(seed, _FINE + np.uint64(place)) >> np.uint64(32)
            out[i] = decided < np.uint64(fine)


@compiled
def _number(seed: np.uint64, index: np.uint64) -> np.uint64:
    """The number of an index, from 0, of SplitMix64 with a seed."""
    z = seed + (index + np.uint64(1)) * _STEP
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))
