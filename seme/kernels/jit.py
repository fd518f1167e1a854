"""Numba, imported here only, and tensors as the arrays its loops take.

A compiled loop reads every number of a block once, however many steps a formula has, without
Python's lock. It is compiled for this CPU at its first call and cached on disk. Without
``fastmath`` every operation rounds as IEEE 754 says and sums keep the order they are written
in: a merge has the bits of the same steps in torch, on any CPU. The cache is keyed by the
loop's own file: so no loop calls one of another file.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_P = ParamSpec("_P")
_R = TypeVar("_R")
_WORD_BITS = 64


@contextlib.contextmanager
def _without_scipy() -> Iterator[None]:
    """Hide scipy while importing numba, unless it is imported already (saves 0.3 s).

    numba takes the BLAS for its ``np.dot`` from scipy; no loop calls that, and nothing else of
    a merge needs scipy.
    """
    if "scipy" in sys.modules:
        yield
        return
    sys.modules["scipy"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["scipy"]


with _without_scipy():
    import numba
    import numba.np.arraymath  # looks for BLAS; otherwise imported by the first loop
    from llvmlite import ir
    from numba.extending import intrinsic


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile a function of numbers and arrays for this CPU, at its first call.

    Raises:
        RuntimeError: If there is no writable folder for the cache.
    """
    try:
        loop: Callable[_P, _R] = numba.njit(nogil=True, cache=True, error_model="numpy")(
            function
        )
    except RuntimeError as error:
        error.add_note(
            "compiled loops are cached next to their source or in the user's cache folder, and "
            "neither is writable: set NUMBA_CACHE_DIR to a writable folder"
        )
        raise
    return loop


def _generate_upper_product(_context: Any, _first: Any, _second: Any) -> Any:  # noqa: ANN401
    def generate(_context: Any, builder: Any, _signature: Any, factors: Any) -> Any:  # noqa: ANN401
        wide = ir.IntType(2 * _WORD_BITS)
        first, second = (builder.zext(factor, wide) for factor in factors)
        upper = builder.lshr(builder.mul(first, second), wide(_WORD_BITS))
        return builder.trunc(upper, ir.IntType(_WORD_BITS))

    return numba.uint64(numba.uint64, numba.uint64), generate


upper_product = cast(
    Callable[[np.uint64, np.uint64], np.uint64], intrinsic(_generate_upper_product)
)
"""The upper 64 bits of a product of 128, in a compiled loop only."""


def use_numba(device: torch.device) -> bool:
    """Decide whether tensors of a device go through the compiled loops."""
    return device.type == "cpu"


def rows(tensors: Sequence[Tensor]) -> NDArray[np.float32]:
    """View float32 tensors of one shape, at least one, as the rows of a matrix.

    Returns:
        Read-only by convention, (len(tensors), n): the tensors' own memory where they are
        adjacent in it, like those of a :class:`seme.streaming.Block`; else a copy.
    """
    first, n = tensors[0], tensors[0].numel()
    begin, size = first.data_ptr(), n * first.itemsize
    adjacent = all(
        tensor.data_ptr() == begin + k * size and tensor.is_contiguous()
        for k, tensor in enumerate(tensors)
    )
    whole = first.untyped_storage()
    if adjacent and begin + len(tensors) * size <= whole.data_ptr() + whole.nbytes():
        stacked = first.as_strided((len(tensors), n), (n, 1))
    else:
        stacked = torch.stack([tensor.reshape(-1) for tensor in tensors])
    matrix: NDArray[np.float32] = stacked.numpy()
    return matrix


def half_patterns(values: Tensor) -> NDArray[np.uint16]:
    """View a bfloat16 tensor, 1-D and contiguous, as bit patterns."""
    patterns: NDArray[np.uint16] = values.view(torch.uint16).numpy()
    return patterns


def flat(tensor: Tensor) -> NDArray[np.float32]:
    """Flatten a float32 tensor to a 1-D array; a view where it is contiguous."""
    row: NDArray[np.float32] = tensor.numpy().reshape(-1)
    return row
