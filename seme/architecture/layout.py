"""How canonical parts lie in one stored tensor: fused, interleaved head by head, transposed (ours)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seme.architecture.parts import Stored


def split(
    tensor: Tensor, stored: Stored, *, rows: Sequence[int], head_dim: int
) -> tuple[Tensor, ...]:
    """Take a stored tensor apart.

    Args:
        tensor: As on disk. Never written to.
        stored: How it holds its parts.
        rows: Rows of each part (outputs), in order.
        head_dim: Dimension of a head; matters for interleaved parts only.

    Returns:
        Views of the tensor in canonical shape (a copy where parts are interleaved).
    """
    if stored.transposed:
        tensor = tensor.T
    if not stored.interleaved:
        return tensor.split_with_sizes(list(rows))
    by_head = tensor.reshape(-1, len(stored.parts), head_dim, *tensor.shape[1:])
    return tuple(part.flatten(0, 1) for part in by_head.unbind(1))


def fuse(parts: Sequence[Tensor], stored: Stored, *, head_dim: int) -> Tensor:
    """Put canonical parts back together: the inverse of :func:`split`."""
    if stored.interleaved:
        by_head = [part.reshape(-1, head_dim, *part.shape[1:]) for part in parts]
        tensor = torch.stack(by_head, dim=1).flatten(0, 2)
    else:
        tensor = torch.cat(list(parts))
    return tensor.T.contiguous() if stored.transposed else tensor
