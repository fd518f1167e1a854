"""Match the tokens of two vocabularies that encode the same bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from seme.alignment.vocabulary import Vocabulary

MIN_TOKENS_PER_DIMENSION = 4
"""Shared tokens that a map between residual streams needs for each dimension of the width."""
MIN_OVERLAP = 0.1
"""Least share of the pivot's vocabulary that a source must share; a map needs that many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTokens:
    """Rows of the tokens that two models share by their text."""

    pivot_rows: Tensor
    """Row in the pivot's head and embedding, ascending, int64."""
    source_rows: Tensor
    """Row of the same token in the source's, int64."""
    overlap: float
    """Share of the pivot's vocabulary that is in the source's, in [0, 1]."""


def shared_tokens(
    pivot: Vocabulary,
    source: Vocabulary,
    *,
    n_pivot: int,
    n_source: int,
    width: int,
) -> SharedTokens:
    """Match the tokens of two models by their text.

    Models of one vocabulary and equally many rows share all of them, padding included.

    Args:
        pivot: Vocabulary of the pivot.
        source: Vocabulary of the source.
        n_pivot: Rows of the pivot's head. Ids at or beyond it have no row and are left out.
        n_source: Rows of the source's head.
        width: Width of the residual stream to be mapped, the larger one where two differ.

    Raises:
        ValueError: If less than ``MIN_OVERLAP`` of the pivot's vocabulary or fewer than
            ``4 * width`` tokens are shared.
    """
    if pivot == source and n_pivot == n_source:
        rows = torch.arange(n_pivot)
        return SharedTokens(pivot_rows=rows, source_rows=rows, overlap=1.0)
    pairs = sorted(
        (of_pivot, of_source)
        for of_pivot, of_source in _pairs(pivot, source)
        if of_pivot < n_pivot and of_source < n_source
    )
    overlap = len(pairs) / len(pivot)
    counted = f"{len(pairs)} tokens of the pivot's {len(pivot)} and the source's {len(source)}"
    if overlap < MIN_OVERLAP:
        raise ValueError(
            f"the models must share at least {MIN_OVERLAP:.1%} of the pivot's vocabulary, they "
            f"share {overlap:.1%}: {counted}; choose a source with a closer tokenizer"
        )
    if len(pairs) < MIN_TOKENS_PER_DIMENSION * width:
        raise ValueError(
            f"a map of width {width} needs at least {MIN_TOKENS_PER_DIMENSION} shared tokens "
            f"per dimension, {MIN_TOKENS_PER_DIMENSION * width}, the models share {counted}; "
            "choose a source whose tokenizer has more tokens in common with the pivot's"
        )
    rows = torch.tensor(pairs, dtype=torch.int64)
    return SharedTokens(
        pivot_rows=rows[:, 0].contiguous(),
        source_rows=rows[:, 1].contiguous(),
        overlap=overlap,
    )


def _pairs(pivot: Vocabulary, source: Vocabulary) -> Iterator[tuple[int, int]]:
    for text, ids in pivot.ids.items():
        yield from zip(ids, source.ids.get(text, ()), strict=False)
    for content, token_id in pivot.specials.items():
        if content in source.specials:
            yield token_id, source.specials[content]
