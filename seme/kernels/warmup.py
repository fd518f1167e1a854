"""Warm-up: compile or load what many methods use before a merge is timed."""

import numpy as np
import torch

from seme.kernels import (
    arithmetic,
    conversion,
    random_bits,
    reductions,
    selection,
)


def load(n_sources: int) -> None:
    """Call the loops on one element: they are compiled, or loaded from the cache.

    Loops of one method alone are loaded by its first block.

    Args:
        n_sources: Number of sources of the merges to come; the upcast is compiled per number.
    """
    pivot, *sources = torch.zeros(n_sources + 1, 1).unbind()
    kept = torch.zeros(1, 1, dtype=torch.bool)
    weights = [1.0] * n_sources
    patterns = conversion.bit_patterns([pivot.bfloat16()] * (n_sources + 1))
    conversion.upcast(patterns, 0, 1)
    conversion.is_finite(pivot)
    reductions.round_merged(pivot, pivot)
    reductions.squared_distance(pivot, pivot)
    reductions.energies(pivot, sources, kept)
    differences = selection.differences(pivot, sources)
    selection.variance(sources, 1.0)
    selection.survivors(differences, [0.0] * n_sources, [0] * n_sources)
    selection.count(differences, np.array([[(0, 1, 0)]] * n_sources, dtype=np.int32))
    arithmetic.mean(sources, weights, 1.0)
    arithmetic.add_weighted(pivot, sources, weights, 1.0, kept)
    arithmetic.add_signed(pivot, sources, weights, 1.0, kept, divide=True)
    random_bits.bernoulli([0], 0, 1, 0.5)
