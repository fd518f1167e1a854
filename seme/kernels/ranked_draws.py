"""Random dropping by rank within rows, and the mean of what agrees in sign, on the CPU.

A row is ranked by sorting one word per element: the upper bits of its magnitude, then its index.
Magnitudes that the upper bits do not tell apart are few, and moved to their places one by one.
Draws are those of ``numpy.random.PCG64``, made here because numpy takes a lock for each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.kernels.jit import compiled, rows, upper_product

_Floats = NDArray[np.float32]
_Doubles = NDArray[np.float64]
_Bits = NDArray[np.int32]
_Keys = NDArray[np.uint32]
_Words = NDArray[np.uint64]
_Places = NDArray[np.int64]
_Flags = NDArray[np.bool_]
_RUN = 1 << 15
"""Elements, in whole rows, that are ranked at one time: their keys fit a core's L2 cache."""
_UNUSED_BITS = np.uint64(11)
_WORD_BITS = 64
_WORD = np.uint64(_WORD_BITS)
_LAST_PLACE = np.uint64(_WORD_BITS - 1)
_TURN_SHIFT = np.uint64(58)
_UPPER_FACTOR = np.uint64(0x2360ED051FC65DA4)
_LOWER_FACTOR = np.uint64(0x4385DF649FCCF645)
"""Words of PCG64's multiplier."""
_KEY_BITS = 32
_RANGE_BITS = 27
"""Patterns from the largest magnitude of a row downwards that its keys tell apart, as a power of
two: a factor of 2 ** 16, as each has 2 ** 23 patterns. What is smaller shares one pattern."""
_MOST_MOVES = 8
"""Moves for each element of a row, in the mean, above which it is sorted by all bits instead."""


def add_pruned(
    pivot: Tensor,
    sources: Sequence[Tensor],
    streams: Sequence[np.random.PCG64],
    limits: _Words,
    inverses: _Doubles,
    scale: float,
) -> Tensor:
    """See :func:`baselines.della.add_pruned`.

    Args:
        pivot: float32 rows, (n_rows, n_columns), contiguous, of fewer than 2 ** 31 columns.
        sources: Likewise.
        streams: Per source one word is drawn for each row and rank.
        limits: By rank; a draw whose upper 53 bits are smaller keeps the element.
        inverses: By rank, the factor of an element that is kept.
        scale: Of the mean.
    """
    n_rows, n_columns = pivot.shape
    merged = torch.empty_like(pivot)
    base, others = pivot.numpy(), rows(sources).reshape(len(sources), n_rows, n_columns)
    states = np.stack([_state(stream) for stream in streams])
    n_at_once = max(_RUN // n_columns, 1)
    for first in range(0, n_rows, n_at_once):
        order = _ascending(base, others, first, min(first + n_at_once, n_rows))
        _add_pruned(base, others, first, order, states, limits, inverses, scale, merged.numpy())
    for stream in streams:
        stream.advance(pivot.numel())
    return merged


def _state(stream: np.random.PCG64) -> _Words:
    """Return state and increment, two numbers of 128 bits, as upper and lower words."""
    state: Any = stream.state["state"]
    numbers = (state["state"], state["inc"])
    words = [word for n in numbers for word in (n >> _WORD_BITS, n % (1 << _WORD_BITS))]
    return np.array(words, dtype=np.uint64)


def _ascending(pivot: _Floats, sources: _Floats, start: int, stop: int) -> _Keys:
    """Return the indices of rows of each task vector by magnitude, equal ones by index."""
    n_columns = pivot.shape[1]
    order = np.empty((len(sources), stop - start, n_columns), dtype=np.uint32)
    unordered = np.empty(order.shape[:2], dtype=np.bool_)
    n_index_bits = max(n_columns - 1, 1).bit_length()
    _keys(pivot, sources, start, n_index_bits, order, unordered)
    order.sort(axis=2)
    _finish_order(pivot, sources, start, n_index_bits, order, unordered)
    for k, row in np.argwhere(unordered):
        tv = sources[k, start + row] - pivot[start + row]
        order[k, row] = np.argsort(np.abs(tv), kind="stable")
    return order


@compiled
def _keys(
    pivot: _Floats,
    sources: _Floats,
    start: int,
    n_index_bits: int,
    out: _Keys,
    unordered: _Flags,
) -> None:
    """Make the keys of rows from ``start`` on, and flag rows that they do not order in full."""
    bits = np.empty(pivot.shape[1], dtype=np.int32)
    shift = max(_RANGE_BITS + n_index_bits - _KEY_BITS, 0)
    n_uppers = 1 << (_RANGE_BITS - shift)
    for k in range(out.shape[0]):
        for row in range(out.shape[1]):
            place = start + row
            largest = _magnitudes(pivot[place], sources[k, place], bits)
            least = max(int(largest >> shift) - n_uppers + 1, 0)
            keys = out[k, row]
            _make_keys(bits, np.int32(least), np.int32(shift), np.uint32(n_index_bits), keys)
            unordered[k, row] = _lose_bits(bits, np.int32(least), np.int32(shift))


@compiled
def _magnitudes(pivot: _Floats, source: _Floats, out: _Bits) -> np.int32:
    """Compute the bit patterns of a task vector's magnitudes; return the largest."""
    tv = out.view(np.float32)
    for i in range(len(tv)):
        tv[i] = abs(source[i] - pivot[i])
    largest = np.int32(0)
    for i in range(len(out)):
        largest = max(largest, out[i])
    return largest


@compiled
def _make_keys(
    bits: _Bits, least: np.int32, shift: np.int32, n_index_bits: np.uint32, out: _Keys
) -> None:
    for i in range(len(bits)):
        upper = np.uint32(max(np.int32(np.int32(bits[i] >> shift) - least), np.int32(0)))
        out[i] = np.uint32(upper << n_index_bits) | np.uint32(i)


@compiled
def _lose_bits(bits: _Bits, least: np.int32, shift: np.int32) -> bool:
    """Check whether keys lack bits of a magnitude: lower ones, or all of a small one."""
    lower, zero = np.int32((1 << shift) - 1), np.int32(0)
    lost = zero
    for i in range(len(bits)):
        is_small = np.int32(np.int32(bits[i] >> shift) < least) & np.int32(bits[i] > zero)
        lost = np.int32(lost | np.int32(bits[i] & lower) | np.int32(is_small))
    return bool(lost)


@compiled
def _finish_order(
    pivot: _Floats,
    sources: _Floats,
    start: int,
    n_index_bits: int,
    keys: _Keys,
    unordered: _Flags,
) -> None:
    """Turn sorted keys into indices, in order but where too many moves would be needed."""
    bits = np.empty(pivot.shape[1], dtype=np.int32)
    lower = np.uint32((1 << n_index_bits) - 1)
    for k in range(keys.shape[0]):
        for row in range(keys.shape[1]):
            _clear_upper(keys[k, row], lower)
            if unordered[k, row]:
                _magnitudes(pivot[start + row], sources[k, start + row], bits)
                unordered[k, row] = not _move_to_places(bits, keys[k, row])


@compiled
def _clear_upper(keys: _Keys, lower: np.uint32) -> None:
    for i in range(len(keys)):
        keys[i] = np.uint32(keys[i] & lower)


@compiled
def _move_to_places(bits: _Bits, order: _Keys) -> bool:
    """Sort by insertion what is nearly sorted; give up, returning False, after many moves."""
    n_left = _MOST_MOVES * len(order)
    largest = np.int32(0)
    for rank in range(len(order)):
        index = order[rank]
        magnitude = bits[index]
        if magnitude >= largest:
            largest = magnitude
            continue
        place = rank
        while place > 0 and bits[order[place - 1]] > magnitude:
            order[place] = order[place - 1]
            place -= 1
        order[place] = index
        n_left -= rank - place
        if n_left < 0:
            return False
    return True


@compiled
def _add_pruned(
    pivot: _Floats,
    sources: _Floats,
    start: int,
    order: _Keys,
    states: _Words,
    limits: _Words,
    inverses: _Doubles,
    scale: float,
    out: _Floats,
) -> None:
    n_sources, n_rows, n_columns = order.shape
    pruned = np.empty((n_sources, n_columns))
    sign, total, count = np.empty(n_columns), np.empty(n_columns), np.empty(n_columns)
    kept = np.empty(n_columns, dtype=np.int64)
    for row in range(n_rows):
        base = pivot[start + row]
        for k in range(n_sources):
            ranks = kept[: _draw(states[k], limits, kept)]
            _prune(base, sources[k, start + row], order[k, row], ranks, inverses, pruned[k])
        _elect(pruned, sign, total, count)
        for k in range(n_sources):
            _add_agreeing(pruned[k], sign, total, count)
        _add_mean(base, sign, total, count, scale, out[start + row])


@compiled
def _draw(state: _Words, limits: _Words, out: _Places) -> int:
    """Draw for each rank, and gather those that are kept without a branch; return their number.

    One step of PCG64 (O'Neill, 2014, "PCG", XSL RR 128/64): the state is multiplied and incremented;
    its two words give the number.
    """
    upper, lower, upper_step, lower_step = state[0], state[1], state[2], state[3]
    n_kept = 0
    for rank in range(len(limits)):
        product = lower * _LOWER_FACTOR
        upper = (
            upper_product(lower, _LOWER_FACTOR) + upper * _LOWER_FACTOR + lower * _UPPER_FACTOR
        )
        lower = product + lower_step
        upper += upper_step + np.uint64(lower < product)
        mixed, turn = upper ^ lower, upper >> _TURN_SHIFT
        number = (mixed >> turn) | (mixed << ((_WORD - turn) & _LAST_PLACE))
        out[n_kept] = rank
        n_kept += int((number >> _UNUSED_BITS) < limits[rank])
    state[0], state[1] = upper, lower
    return n_kept


@compiled
def _prune(
    pivot: _Floats,
    source: _Floats,
    order: _Keys,
    ranks: _Places,
    inverses: _Doubles,
    out: _Doubles,
) -> None:
    """Multiply each task vector's element that is kept by the factor of its rank."""
    for i in range(len(out)):
        out[i] = 0.0
    for i in range(len(ranks)):
        index = order[ranks[i]]
        value = np.float64(source[index]) - np.float64(pivot[index])
        out[index] = value * inverses[ranks[i]]


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
