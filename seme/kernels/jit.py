"""The one door to numba, and what tensors become behind it (ours).

A compiled loop reads every number of a block once, however many steps a formula has, and does so
without Python's lock. Its functions are compiled when they are first called, for this processor,
and kept on disk. Without ``fastmath`` every operation rounds as IEEE 754 says and sums keep the
order they are written in: the bits of a merge are those of the same steps in torch, on any
processor. What is kept on disk is known by its own file alone: so no loop calls one of another file.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextlib.contextmanager
def _without_scipy() -> Iterator[None]:
    """Have scipy look absent where nothing has imported it yet; importable again afterwards.

    numba looks in it for the BLAS of its ``np.dot``, which no loop here calls; importing it
    takes a good part of the time that loading all loops does. Nothing else of a merge needs it.
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
    import numba.np.arraymath  # what looks for BLAS; otherwise imported by the first loop


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile a function of numbers and arrays for this processor, when it is first called.

    Raises:
        RuntimeError: If there is no folder in which to keep what is compiled.
    """
    try:
        made: Callable[_P, _R] = numba.njit(nogil=True, cache=True, error_model="numpy")(
            function
        )
    except RuntimeError as error:
        error.add_note(
            "compiled loops are kept beside their source or in the user's cache folder, and "
            "neither can be written to: set NUMBA_CACHE_DIR to a folder that can"
        )
        raise
    return made


def serve(device: torch.device) -> bool:
    """Tell whether the compiled loops are for tensors of a device."""
    return device.type == "cpu"


def rows(tensors: Sequence[Tensor]) -> NDArray[np.float32]:
    """See float32 tensors of one shape, at least one, as the rows of a matrix.

    Returns:
        Of shape (len(tensors), n). The tensors' own memory where they lie in it one after the
        other, as those of a :class:`seme.streaming.Block` do; never to be written to.
    """
    first, n = tensors[0], tensors[0].numel()
    begin, size = first.data_ptr(), n * first.itemsize
    adjoining = all(
        tensor.data_ptr() == begin + k * size and tensor.is_contiguous()
        for k, tensor in enumerate(tensors)
    )
    whole = first.untyped_storage()
    if adjoining and begin + len(tensors) * size <= whole.data_ptr() + whole.nbytes():
        seen = first.as_strided((len(tensors), n), (n, 1))
    else:
        seen = torch.stack([tensor.reshape(-1) for tensor in tensors])
    matrix: NDArray[np.float32] = seen.numpy()
    return matrix


def half_patterns(values: Tensor) -> NDArray[np.uint16]:
    """See bfloat16 numbers, 1-D and contiguous, as the patterns of bits they are."""
    seen: NDArray[np.uint16] = values.view(torch.uint16).numpy()
    return seen


def flat(tensor: Tensor) -> NDArray[np.float32]:
    """See a float32 tensor as a row of numbers."""
    row: NDArray[np.float32] = tensor.numpy().reshape(-1)
    return row
