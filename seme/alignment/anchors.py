"""The anchors of a source: shared tokens, semantic bases, and the residual map they give.

SeMe, https://arxiv.org/abs/2505.20144. Paper: the bases of the output head. Ours: tokens matched
by their text between vocabularies, and the embeddings as anchors at the other end.
"""

import filecmp
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from seme.alignment.residual_map import embedding_operator, residual_operator
from seme.alignment.semantic_bases import Bases, semantic_bases
from seme.alignment.tokens import SharedTokens, read_vocabulary, shared_tokens
from seme.architecture.families import readout_of
from seme.checkpoint.protocol import Weights

Anchors = Literal["both", "head"]
"""``head`` is the paper; ``both`` adds the embeddings of the shared tokens (ours)."""

_VOCABULARIES = ("tokenizer.json", "vocab.json", "tokenizer.model", "*.tiktoken")
_BLOCK_ROWS = 2048
"""Tokens taken at a time: 67 MB in float64 at width 4096."""


def match_tokens(pivot: Weights, source: Weights, *, min_overlap: float) -> SharedTokens | None:
    """Find the tokens two models share.

    Returns:
        None where they stand row for row: one vocabulary, or no tokenizer beside either.

    Raises:
        ValueError: If too few tokens are shared, or only one model states its vocabulary.
    """
    n_pivot, width = head_shape(pivot)
    n_source, source_width = head_shape(source)
    files = [_vocabulary_files(model.path) for model in (pivot, source)]
    if n_pivot == n_source and _are_alike(*files):
        return None
    if not all(files):
        lacking = (pivot if not files[0] else source).path
        raise ValueError(
            f"{lacking} has no vocabulary to match tokens by: put its tokenizer files "
            f"({', '.join(_VOCABULARIES)}) beside the weights"
        )
    ours, theirs = read_vocabulary(pivot.path), read_vocabulary(source.path)
    if ours == theirs and n_pivot == n_source:
        return None
    return shared_tokens(
        ours,
        theirs,
        n_pivot=n_pivot,
        n_source=n_source,
        width=max(width, source_width),
        min_overlap=min_overlap,
    )


def head_bases(model: Weights, rows: Tensor | None, owner: str, device: torch.device) -> Bases:
    """Solve for the semantic bases of some of a model's tokens; see :func:`semantic_bases`.

    Args:
        model: The model; only these rows of its head are read, and its final norm.
        rows: The tokens, int64; None for all.
        owner: What messages call the model.
        device: Where the arithmetic is done.

    Returns:
        Bases whose ``head_VD`` holds these rows, in their order.
    """
    try:
        end = readout_of(model.config, model.names)
        gain = model.read(end.norm).to(device, torch.float32) + end.gain_offset
        head = (model.read(end.head) if rows is None else read_rows(model, end.head, rows)).to(
            device
        )
        return semantic_bases(head, gain, block_rows=_BLOCK_ROWS)
    except ValueError as error:
        error.add_note(f"while solving for the semantic bases of {owner}")
        raise


def read_rows(model: Weights, name: str, rows: Tensor) -> Tensor:
    """Read some rows of a matrix, int64; all of them in one piece where they are most."""
    n_rows, width = model.shape(name)
    if len(rows) > n_rows // 4:
        matrix = model.read(name)
        return (
            matrix if len(rows) == n_rows and bool((rows.diff() == 1).all()) else matrix[rows]
        )
    opened = model.opened(name)
    return torch.stack([opened.read(r * width, (r + 1) * width) for r in rows.tolist()])


def head_operator(pivot: Bases, source: Bases) -> Tensor:
    """The paper's operator M = U_P^T U_k of tokens that stand row for row, float64, (P, K)."""
    return residual_operator(pivot, source, block_rows=_BLOCK_ROWS)


def embeddings_operator(pivot: Tensor, source: Tensor, tokens: SharedTokens | None) -> Tensor:
    """The same of the embeddings' unit rows (ours), float64, (P, K)."""
    rows = (None, None) if tokens is None else (tokens.pivot_rows, tokens.source_rows)
    return embedding_operator(pivot, source, *rows, block_rows=_BLOCK_ROWS)


def head_shape(model: Weights) -> tuple[int, int]:
    """Rows and width of a model's output head."""
    rows, width = model.shape(readout_of(model.config, model.names).head)
    return rows, width


def _vocabulary_files(folder: Path) -> list[Path]:
    return sorted(file for pattern in _VOCABULARIES for file in folder.glob(pattern))


def _are_alike(files: list[Path], others: list[Path]) -> bool:
    """Whether two folders hold the same vocabulary files, or none."""
    return [file.name for file in files] == [other.name for other in others] and all(
        filecmp.cmp(file, other, shallow=False)
        for file, other in zip(files, others, strict=True)
    )
