"""Same-base check: whether a source's weights look like a fine-tune of the pivot's.

Merging element by element needs a common ancestor. The check compares a sample of the large
matrices: at most ``MAX_ELEMENTS`` of each model are read. Measured on the embedded benchmark
(whole matrices): the cosine with the base is 0.997 for its experts, 0.991 for the multitask
model, and below 0.002 for models trained from another seed or with another tokenizer. Half the
base and half another model, or noise as large as the weights, give 0.71; a quarter of the base,
or the base with the neurons of its MLPs in another order, 0.32 (ours).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seme.architecture.families import EMBEDDINGS, HEADS
from seme.checkpoint.lora import AdaptedCheckpoint
from seme.checkpoint.protocol import Weights, describe

MIN_COSINE = 0.5
"""A source below it is not taken for a fine-tune of the pivot."""
MAX_ELEMENTS = 1 << 18
"""Most elements read of each model: 0.5 MB in bfloat16."""
_MIN_ELEMENTS = 1 << 12
"""Fewer tell too little: the cosine of unrelated weights is about 1 / sqrt(elements)."""
_N_TENSORS = 8
_SPANS = 4
"""Places in each tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resemblance:
    """Comparison of a source's weights with the pivot's, over the sample."""

    cosine: float
    """In [-1, 1]."""
    distance: float
    """||source - pivot|| / ||pivot||, at least 0."""
    n_elements: int
    n_tensors: int


def unrelated(
    pivot: Weights, sources: Sequence[Weights], merged_names: Sequence[str]
) -> list[str]:
    """Describe sources that do not look like fine-tunes; adapters of the pivot are.

    Args:
        pivot: The model merged into.
        sources: Models with its names and shapes, in the order of the configuration.
        merged_names: As for :func:`ancestry_warnings`.
    """
    on_pivot = [
        isinstance(source, AdaptedCheckpoint)
        and source.base.path.resolve() == pivot.path.resolve()
        for source in sources
    ]
    return ancestry_warnings(
        pivot,
        {i: source for i, source in enumerate(sources) if not on_pivot[i]},
        merged_names,
    )


def ancestry_warnings(
    pivot: Weights, sources: Mapping[int, Weights], merged_names: Sequence[str]
) -> list[str]:
    """Describe the sources that do not look like fine-tunes of the pivot.

    Args:
        pivot: The model merged into.
        sources: Models with the pivot's names and shapes, by their index in the configuration.
        merged_names: Tensors to be merged; the sample is taken from them.

    Returns:
        One line for each such source, with the evidence.
    """
    lines = []
    for i, source in sources.items():
        likeness = resemblance(pivot, source, merged_names)
        if likeness is not None and likeness.cosine < MIN_COSINE:
            lines.append(
                f"{describe(i, source)} does not look like a fine-tune of the pivot: the cosine "
                f"of their weights is {likeness.cosine:.2f}, their relative distance "
                f"{likeness.distance:.2f} ({likeness.n_elements} elements of {likeness.n_tensors} "
                f"matrices; fine-tunes have a cosine near 1, expected is at least {MIN_COSINE}). "
                "Merging element by element needs models of one base, in one order of neurons: "
                "check the pivot, or use method=seme"
            )
    return lines


def resemblance(
    pivot: Weights, source: Weights, merged_names: Sequence[str]
) -> Resemblance | None:
    """Compare a sample of the weights.

    Embeddings and LM heads are left out, whose rare tokens hardly change in training, and so
    are vectors: the gains of norms are near 1 in any model.

    Returns:
        None if the matrices are too small to tell, or hold nothing to compare: zeros, or
        numbers that are not finite, which the merge refuses.
    """
    names = [name for name in merged_names if _is_layer_matrix(pivot, name)]
    if len(names) > _N_TENSORS:  # spread over layers, and over the kinds within one
        places = (i * len(names) // _N_TENSORS + i for i in range(_N_TENSORS))
        names = list(dict.fromkeys(names[place % len(names)] for place in places))
    spans = {name: _spans(math.prod(pivot.shape(name))) for name in names}
    n_elements = sum(stop - start for places in spans.values() for start, stop in places)
    if n_elements < _MIN_ELEMENTS:
        return None
    own, other = (
        torch.cat([_read(model, name, spans[name]) for name in names])
        for model in (pivot, source)
    )
    norm, other_norm = float(own.norm()), float(other.norm())
    scale = norm * other_norm
    if not math.isfinite(scale) or scale == 0:
        return None
    return Resemblance(
        cosine=float(own @ other) / scale,
        distance=float((other - own).norm()) / norm,
        n_elements=n_elements,
        n_tensors=len(names),
    )


def _is_layer_matrix(model: Weights, name: str) -> bool:
    return len(model.shape(name)) == 2 and not name.endswith((*EMBEDDINGS, *HEADS))


def _spans(n_elements: int) -> list[tuple[int, int]]:
    """Choose places spread over a tensor; all of it if it is small."""
    size = MAX_ELEMENTS // (_N_TENSORS * _SPANS)
    if n_elements <= size * _SPANS:
        return [(0, n_elements)]
    starts = [i * (n_elements - size) // (_SPANS - 1) for i in range(_SPANS)]
    return [(start, start + size) for start in starts]


def _read(model: Weights, name: str, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Read places of a tensor, float64."""
    opened = model.opened(name)
    return torch.cat([opened.read(start, stop) for start, stop in spans]).double()
