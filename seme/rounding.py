"""From the dtype on disk to float32, once back to the output dtype, and what that costs."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seme.kernels import conversion, norms
from seme.kernels.jit import serve


class Rounded(NamedTuple):
    """A block in the output dtype."""

    values: Tensor
    lost: float
    """``||values - exact||^2``."""
    changed: float
    """``||exact - pivot||^2``."""


def is_finite(values: Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor an infinity; one pass, no temporary."""
    if serve(values.device) and values.dtype == torch.float32:
        return conversion.is_finite(values)
    if values.numel() == 0 or math.isfinite(values.sum().item()):
        return True  # NaN and infinities would show in the sum
    low, high = torch.aminmax(values)  # a sum can be too large where no number is
    return bool(torch.isfinite(low) & torch.isfinite(high))


def widen(values: Tensor, *, out: Tensor) -> bool:
    """Write numbers of any dtype into float32 memory of their shape and device, (n,).

    Returns:
        Whether none of them is NaN or infinite there.
    """
    if serve(values.device) and values.dtype == torch.bfloat16:
        return conversion.widen(values, out)
    out.copy_(values)
    return is_finite(out)


def round_to(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    """Round a finite tensor to another dtype.

    Raises:
        ValueError: If a value is too large for ``dtype``.
    """
    rounded = tensor.to(dtype)
    if dtype.is_floating_point and rounded is not tensor and not is_finite(rounded):
        raise _too_large(tensor, dtype)
    return rounded


def round_merged(dtype: torch.dtype, *, exact: Tensor, pivot: Tensor) -> Rounded:
    """Round a merged block to the output dtype, and measure what that and the merge did.

    Args:
        dtype: The output dtype.
        exact: What the method returned, float32, (n,).
        pivot: The pivot's block.

    Raises:
        ValueError: If ``exact`` holds NaN or an infinity, or a value too large for ``dtype``.
    """
    changed = _squared_distance(exact, pivot)
    if not math.isfinite(changed):  # float64 holds the squares of all that float32 holds
        raise ValueError("what the method returned holds NaN or an infinity")
    if dtype.itemsize >= exact.dtype.itemsize:
        return Rounded(exact.to(dtype), 0.0, changed)
    if serve(exact.device) and dtype == torch.bfloat16:
        values, again = conversion.round_to_bfloat16(exact)
    else:
        values = exact.to(dtype)
        again = values.float()
    lost = _squared_distance(again, exact)
    if not math.isfinite(lost):
        raise _too_large(exact, dtype)
    return Rounded(values, lost, changed)


def _too_large(values: Tensor, dtype: torch.dtype) -> ValueError:
    return ValueError(
        f"a value of magnitude {values.abs().max().item():g} is too large for {dtype}: "
        "choose bfloat16 or float32 as the output dtype"
    )


def _squared_distance(values: Tensor, others: Tensor) -> float:
    """The squared norm of a difference, in float64."""
    if serve(values.device):
        return norms.squared_distance(values, others)
    return float((values.double() - others.double()).square_().sum())


class RoundingLoss:
    """The share of a merge's change that the output dtype loses, summed over all tensors."""

    def __init__(self) -> None:
        self._lost = 0.0
        self._changed = 0.0

    def add(self, errors: Sequence[tuple[float, float]]) -> None:
        """Count the blocks of a tensor, as :func:`round_merged` measured them."""
        self._lost += math.fsum(lost for lost, _ in errors)
        self._changed += math.fsum(changed for _, changed in errors)

    @property
    def share(self) -> float:
        """``||rounded - exact|| / ||exact - pivot||`` so far; 0 when nothing changed."""
        return math.sqrt(self._lost / self._changed) if self._changed else 0.0
