"""Gram matrices of the models of a merge, streaming: their norms and the angles between them.

Inner products come from squared distances, ``<a, b> = (|a|^2 + |b|^2 - |a - b|^2) / 2``, which
are summed in float64: cosines near 1, of fine-tuned models, keep their digits.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seme.elementwise import add_weighted, weighted_mean
from seme.rounding import squared_distance
from seme.streaming import Block, Models, OpenTensor

Gram = NDArray[np.float64]
"""Inner products of the sources' vectors, (n_sources, n_sources)."""
Origin = Literal["pivot", "zero"]
"""Origin of the sources' vectors: the pivot (task vectors), or zero (weights)."""


def gram_of(tensor: OpenTensor, origin: Origin) -> Gram:
    """Compute the inner products of a tensor's sources, by one pass over it."""
    n_sources = len(tensor.models.sources)
    pairs = list(itertools.combinations_with_replacement(range(n_sources), 2))
    sums = _summed(tensor.map(lambda block: _distances(block, origin, pairs)), len(pairs))
    distances = dict(zip(pairs, sums, strict=True))
    gram = np.diag([distances[k, k] for k in range(n_sources)])
    for a, b in itertools.combinations(range(n_sources), 2):
        product = (gram[a, a] + gram[b, b] - distances[a, b]) / 2
        gram[a, b] = gram[b, a] = product
    return gram


def cosines_of(gram: Gram) -> Gram:
    """Compute the cosines between vectors, in [-1, 1]; 0 where one of them is zero."""
    norms = np.sqrt(np.diag(gram))
    lengths = np.where(norms > 0, norms, 1.0)
    return np.clip(gram / lengths / lengths[:, None], -1.0, 1.0)


def task_vector_energies(models: Models) -> list[float]:
    """Sum the squares of each source's task vector over the tensors that are merged.

    Returns:
        One float64 sum per source; the same for any number of threads.
    """
    n_sources = len(models.sources)
    pairs = [(k, k) for k in range(n_sources)]
    tensors = [models.open(name, kept=False) for name in models.merged_names]

    def energies(index: int, one_thread: bool) -> list[float]:
        per_block = tensors[index].map(
            lambda block: _distances(block, "pivot", pairs), one_thread=one_thread
        )
        return _summed(per_block, n_sources)

    per_tensor = models.map_tensors(
        [tensor.numel for tensor in tensors],
        lambda index: energies(index, False),
        lambda index: energies(index, True),
    )
    return _summed(per_tensor, n_sources)


def combine(
    pivot: Tensor, sources: Sequence[Tensor], coefficients: Sequence[float], origin: Origin
) -> Tensor:
    """Add up the sources' vectors times their coefficients, from the origin on.

    Returns:
        float32 of the pivot's shape, rounded once.
    """
    if origin == "pivot":
        return add_weighted(pivot, sources, weights=coefficients, scale=1.0)
    return weighted_mean(sources, weights=coefficients, divisor=1.0)


def _distances(block: Block, origin: Origin, pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Measure the squared distances of pairs of sources; of a source and itself, its energy."""
    start = block.pivot if origin == "pivot" else torch.zeros_like(block.pivot)
    return [
        squared_distance(block.sources[a], start if a == b else block.sources[b])
        for a, b in pairs
    ]


def _summed(rows: Sequence[Sequence[float]], n: int) -> list[float]:
    """Add rows of n numbers; zeros where there is no row."""
    return [math.fsum(row[k] for row in rows) for k in range(n)]
