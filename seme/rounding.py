"""Round merged tensors once to the output dtype, and measure what that costs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def is_finite(values: Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor an infinity; one pass, no temporary."""
    if values.numel() == 0 or math.isfinite(values.sum().item()):
        return True  # NaN and infinities would show in the sum
    low, high = torch.aminmax(values)  # a sum can be too large where no number is
    return bool(torch.isfinite(low) & torch.isfinite(high))


def round_to(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    """Round a finite tensor to another dtype.

    Raises:
        ValueError: If a value is too large for ``dtype``.
    """
    rounded = tensor.to(dtype)
    if dtype.is_floating_point and rounded is not tensor and not is_finite(rounded):
        raise ValueError(
            f"a value of magnitude {tensor.abs().max().item():g} is too large for {dtype}: "
            "choose bfloat16 or float32 as the output dtype"
        )
    return rounded


def rounding_error(*, exact: Tensor, rounded: Tensor, pivot: Tensor) -> tuple[float, float]:
    """Measure what rounding did to a block, and what the merge did.

    Args:
        exact: What the method returned, float32.
        rounded: The same in the output dtype.
        pivot: The pivot's block.

    Returns:
        ``||rounded - exact||^2`` and ``||exact - pivot||^2``.
    """
    if rounded.dtype.itemsize >= exact.dtype.itemsize:
        return 0.0, _square(exact - pivot)
    return _square(rounded.to(exact.dtype).sub_(exact)), _square(exact - pivot)


def _square(values: Tensor) -> float:
    """The squared norm of a block; in float64 where float32 is too narrow."""
    norm = float(torch.linalg.vector_norm(values))
    if norm == 0 or not math.isfinite(norm):
        norm = float(torch.linalg.vector_norm(values.double()))
    return norm * norm


class RoundingLoss:
    """The share of a merge's change that the output dtype loses, summed over all tensors."""

    def __init__(self) -> None:
        self._lost = 0.0
        self._changed = 0.0

    def add(self, errors: Sequence[tuple[float, float]]) -> None:
        """Count the blocks of a tensor, as :func:`rounding_error` measured them."""
        self._lost += math.fsum(lost for lost, _ in errors)
        self._changed += math.fsum(changed for _, changed in errors)

    @property
    def share(self) -> float:
        """``||rounded - exact|| / ||exact - pivot||`` so far; 0 when nothing changed."""
        return math.sqrt(self._lost / self._changed) if self._changed else 0.0
