"""Upcast to float32, round once to the output dtype, measure the rounding error."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seme.kernels import conversion, reductions
from seme.kernels.jit import use_numba


class Rounded(NamedTuple):
    """A merged block in the output dtype, and what rounding and merging changed."""

    values: Tensor
    lost: float
    """``||values - exact||^2``."""
    changed: float
    """``||exact - pivot||^2``."""


def is_finite(values: Tensor) -> bool:
    """Check that a tensor holds neither NaN nor an infinity; one pass, no temporary."""
    if use_numba(values.device) and values.dtype == torch.float32:
        return conversion.is_finite(values)
    if values.numel() == 0 or math.isfinite(values.sum().item()):
        return True  # NaN and infinities would show in the sum
    low, high = torch.aminmax(values)  # a sum can be too large where no number is
    return bool(torch.isfinite(low) & torch.isfinite(high))


class Raw:
    """Slices of all models in their stored dtype, to be upcast to float32 block by block."""

    def __init__(self, slices: Sequence[Tensor], device: torch.device) -> None:
        """Compute nothing yet.

        Args:
            slices: One per model, 1-D and of one length, in any dtype.
            device: Device of the float32 values.
        """
        self._slices = slices
        self._device = device
        all_bfloat16 = all(values.dtype == torch.bfloat16 for values in slices)
        self._bfloat16 = (
            conversion.bit_patterns(slices) if use_numba(device) and all_bfloat16 else None
        )

    def upcast(self, start: int, stop: int) -> tuple[Tensor, list[bool]]:
        """Convert the numbers [start, stop) of every model to float32.

        Returns:
            One row per model, (n_models, stop - start), in new memory; and, per model, whether
            all of them are finite.
        """
        if self._bfloat16 is not None:
            return conversion.upcast(self._bfloat16, start, stop)
        rows = torch.empty((len(self._slices), stop - start), device=self._device)
        for row, values in zip(rows, self._slices, strict=True):
            row.copy_(self._on_device(values[start:stop]))
        return rows, [is_finite(row) for row in rows]

    def _on_device(self, values: Tensor) -> Tensor:
        """Move values to a GPU through pinned memory."""
        if self._device.type == "cuda" and values.device.type == "cpu":
            return values.pin_memory().to(self._device, non_blocking=True)
        return values


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
    """Round a merged block to the output dtype; measure the rounding error and the change.

    Args:
        dtype: The output dtype.
        exact: The merged block as the method returned it, float32, (n,).
        pivot: The pivot's block, (n,).

    Raises:
        ValueError: If ``exact`` holds NaN or an infinity, or a value too large for ``dtype``.
    """
    if use_numba(exact.device) and dtype == torch.bfloat16:
        values, lost, changed = reductions.round_merged(exact, pivot)
    else:
        values = exact.to(dtype)
        changed = squared_distance(exact, pivot)
        lost = squared_distance(values.float(), exact) if values is not exact else 0.0
    if not math.isfinite(changed):  # float64 holds the squares of all that float32 holds
        raise ValueError("the merge method returned NaN or inf")
    if not math.isfinite(lost):
        raise _too_large(exact, dtype)
    return Rounded(values, lost, changed)


def _too_large(values: Tensor, dtype: torch.dtype) -> ValueError:
    return ValueError(
        f"a value of magnitude {values.abs().max().item():g} is too large for {dtype}: "
        "choose bfloat16 or float32 as the output dtype"
    )


def squared_distance(values: Tensor, others: Tensor) -> float:
    """Sum the squared differences of two float32 tensors of one shape, in float64."""
    if use_numba(values.device):
        return reductions.squared_distance(values, others)
    return float((values.double() - others.double()).square_().sum())


def summed(errors: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Sum (lost, changed) of blocks or of tensors; see :class:`Rounded`."""
    return math.fsum(lost for lost, _ in errors), math.fsum(changed for _, changed in errors)


def share_lost(errors: Sequence[tuple[float, float]]) -> float:
    """Compute the share of the merged change that rounding loses, over all blocks or tensors.

    Returns:
        ``||rounded - exact|| / ||exact - pivot||``; 0 when nothing changed.
    """
    lost, changed = summed(errors)
    return math.sqrt(lost / changed) if changed else 0.0


def certain(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """Round the numbers of nested JSON to nine digits.

    Sums over threads differ in the last bits of float64 (1e-15 measured with one and two), so that
    what is recorded is the same on any number of threads.
    """
    if isinstance(value, Mapping):
        return {key: certain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [certain(entry) for entry in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value
