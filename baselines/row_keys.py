"""Whole numbers that order the elements of rows by magnitude, ties by index (ours).

Non-negative float32 numbers order like their bit patterns; with the index in the lower half no
two keys of a row are equal, and any sort or partition of them, however it is done, gives one
result. numpy sorts and partitions 64-bit numbers several times faster than torch ranks floats.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Keys = NDArray[np.int64]
"""(n_rows, n_columns); all of a row are different."""
_HALF = 32
_LOWER = np.int64((1 << _HALF) - 1)


def row_keys(magnitudes: Tensor, *, first_ranks_highest: bool) -> Keys:
    """Make the keys of every row, on the CPU.

    Args:
        magnitudes: Non-negative float32 numbers, (n_rows, n_columns).
        first_ranks_highest: Which of equal magnitudes ranks highest: that of the lowest index,
            or that of the highest.
    """
    indices = np.arange(magnitudes.shape[1], dtype=np.int64)
    bits = magnitudes.contiguous().cpu().numpy().view(np.int32).astype(np.int64)
    return (bits << _HALF) | (indices[::-1] if first_ranks_highest else indices)


def ascending(magnitudes: Tensor) -> Keys:
    """Return each row's indices from the smallest magnitude to the largest, ties by index."""
    keys = row_keys(magnitudes, first_ranks_highest=False)
    keys.sort(axis=1)
    return keys & _LOWER


def among_largest(magnitudes: Tensor, n: int) -> NDArray[np.bool_]:
    """Mark the ``n`` largest of each row, of equal ones those of the lowest index.

    Args:
        magnitudes: As in :func:`row_keys`.
        n: From 1 to the number of columns.
    """
    keys = row_keys(magnitudes, first_ranks_highest=True)
    place = keys.shape[1] - n
    least = np.partition(keys, place, axis=1)[:, place]
    marked: NDArray[np.bool_] = keys >= least[:, None]
    return marked
