"""Round merged tensors once to the output dtype, and measure what that costs."""

import math

import torch
from torch import Tensor

_BLOCK = 1 << 20


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor an infinity; one pass, no temporary."""
    if tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)
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


class RoundingLoss:
    """The share of a merge's change that the output dtype loses, summed over all tensors."""

    def __init__(self) -> None:
        self._lost = 0.0
        self._changed = 0.0

    def add(self, *, exact: Tensor, rounded: Tensor, pivot: Tensor) -> None:
        """Count one merged tensor.

        Args:
            exact: What the method returned.
            rounded: The same in the output dtype.
            pivot: The pivot's tensor, as the method saw it.
        """
        self._changed += squared_distance(exact, pivot)
        if rounded.dtype.itemsize < exact.dtype.itemsize:
            self._lost += squared_distance(exact, rounded)

    @property
    def share(self) -> float:
        """``||rounded - exact|| / ||exact - pivot||`` so far; 0 when nothing changed."""
        return math.sqrt(self._lost / self._changed) if self._changed else 0.0


def squared_distance(one: Tensor, other: Tensor) -> float:
    """Return the squared Frobenius norm of a difference, summed in float64 block by block."""
    flat, target = one.reshape(-1), other.reshape(-1)
    blocks = (slice(i, i + _BLOCK) for i in range(0, flat.numel(), _BLOCK))
    return math.fsum(
        (flat[b].double() - target[b].double()).square().sum().item() for b in blocks
    )
