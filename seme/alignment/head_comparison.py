"""What the output heads alone say of where a source stands relative to the pivot.

SeMe, https://arxiv.org/abs/2505.20144. Paper: the map from the output head's semantic bases.
Ours: the identity short-cut for a source that is in the pivot's frame already. Some rows of the
heads show that; all of them are taken only for a source that has to be turned.
"""

import filecmp
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from seme.alignment.residual_map import (
    Projection,
    ResidualMap,
    embedding_operator,
    residual_map,
    residual_operator,
)
from seme.alignment.semantic_bases import Bases, semantic_bases
from seme.alignment.stopwatch import Stopwatch
from seme.alignment.tokens import (
    MIN_TOKENS_PER_DIMENSION,
    SharedTokens,
    read_vocabulary,
    shared_tokens,
)
from seme.architecture.families import family_of, readout_of
from seme.budget import compared_bytes
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


MatchUnits = Literal["auto", "always", "never"]
"""``auto``: only where the source is not in the pivot's frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How sources are aligned; see :func:`seme.method.prepare`."""

    projection: Projection
    anchors: Anchors
    match_units: MatchUnits
    refine: int
    identity_tolerance: float
    min_overlap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadComparison:
    """What the output heads of the pivot and a source say of where the source stands."""

    tokens: SharedTokens | None
    """None: row for row."""
    operator_PK: Tensor | None
    """None where the identity short-cut is taken: nothing needs it then."""
    pivot_PP: Tensor | None
    """The same operator of the pivot with itself; for least squares only."""
    turn: ResidualMap
    in_frame: bool
    """Whether the identity short-cut is taken."""
    condition: float
    ridge: float
    n_anchors: int
    """Tokens compared."""
    n_shared: int
    """Tokens that both models have."""


class PivotHead:
    """The pivot's semantic bases; those of a few tokens are kept for sources that share them."""

    def __init__(self, pivot: Weights, device: torch.device) -> None:
        self.model = pivot
        self._device = device
        self._rows: Tensor | None = None
        self._bases: Bases | None = None

    def bases(self, rows: Tensor, *, keep: bool) -> Bases:
        """Solve for the bases of some tokens; see :func:`seme.alignment.head_comparison.head_bases`.

        Args:
            rows: The tokens, int64.
            keep: Keep them for whoever asks next.
        """
        if self._bases is not None and self._rows is not None and torch.equal(rows, self._rows):
            return self._bases
        found = head_bases(self.model, rows, "the pivot", self._device)
        if keep:
            self._rows, self._bases = rows, found
        return found


def compare_heads(
    head: PivotHead,
    source: Weights,
    owner: str,
    options: Options,
    device: torch.device,
    watch: Stopwatch,
) -> HeadComparison:
    """Compare a source with the pivot by their heads alone; no layer is read.

    Where that leaves most tokens out, evenly spaced ones are compared first. If they show the
    source in the pivot's frame, it is: a source in another frame is 1.4 away from it, whatever
    the tokens, and what a sample adds to the distance of one in the frame is noise.

    Args:
        head: The pivot's.
        source: The source.
        owner: What messages call the source.
        options: Their ``projection``, ``identity_tolerance`` and ``min_overlap`` are used.
        device: Where the arithmetic is done.
        watch: Takes the seconds of ``tokens``, ``bases`` and ``map``.

    Raises:
        ValueError: If a head cannot be found or has no bases, or too few tokens are shared.
    """
    pivot = head.model
    tokens = watch.time(
        "tokens", lambda: match_tokens(pivot, source, min_overlap=options.min_overlap)
    )
    whole = tokens or _row_for_row(pivot)
    some = _some_of(whole, head_shape(pivot)[1])
    if some is not None:
        comparison = _compare(head, source, owner, some, options, device, watch, keep=True)
        if comparison.in_frame:
            return replace(comparison, tokens=tokens, n_shared=len(whole.pivot_rows))
    comparison = _compare(head, source, owner, whole, options, device, watch, keep=False)
    return replace(comparison, tokens=tokens)


def _row_for_row(pivot: Weights) -> SharedTokens:
    rows = torch.arange(head_shape(pivot)[0])
    return SharedTokens(pivot_rows=rows, source_rows=rows, overlap=1.0)


def comparing_bytes(pivot: Weights, n_sources: int) -> int:
    """Estimate the memory that comparing sources with the pivot takes at first, in bytes."""
    n_tokens, width = head_shape(pivot)
    itemsize = pivot.dtype(readout_of(pivot.config, pivot.names).head).itemsize
    return compared_bytes(_n_some(n_tokens, width), width, n_sources, itemsize=itemsize)


def _n_some(n_tokens: int, width: int) -> int:
    """As many tokens as a map needs; all if that is more than half of them (ours)."""
    n_some = MIN_TOKENS_PER_DIMENSION * width
    return n_some if 2 * n_some <= n_tokens else n_tokens


def _some_of(tokens: SharedTokens, width: int) -> SharedTokens | None:
    """Evenly spaced tokens, as many as are compared first; None if that is all of them."""
    n = len(tokens.pivot_rows)
    n_some = _n_some(n, width)
    if n_some == n:
        return None
    places = torch.arange(n_some) * n // n_some
    return replace(
        tokens, pivot_rows=tokens.pivot_rows[places], source_rows=tokens.source_rows[places]
    )


def _compare(
    head: PivotHead,
    source: Weights,
    owner: str,
    tokens: SharedTokens,
    options: Options,
    device: torch.device,
    watch: Stopwatch,
    *,
    keep: bool,
) -> HeadComparison:
    """Compare the heads in some of the tokens the models share."""
    ours = watch.time("bases", lambda: head.bases(tokens.pivot_rows, keep=keep))
    theirs = watch.time("bases", lambda: head_bases(source, tokens.source_rows, owner, device))
    operator_PK = watch.time("map", lambda: head_operator(ours, theirs))
    pivot_PP = None
    if options.projection == "least_squares":
        pivot_PP = watch.time("map", lambda: head_operator(ours, ours))
    turn = watch.time(
        "map",
        lambda: residual_map(
            operator_PK,
            projection=options.projection,
            centred=_is_centred(head.model),
            n_anchors=len(tokens.pivot_rows),
            pivot_PP=pivot_PP,
        ),
    )
    close = turn.distance is not None and turn.distance < options.identity_tolerance
    in_frame = close and options.projection != "cosine"
    return HeadComparison(
        tokens=tokens,
        operator_PK=None if in_frame else operator_PK,
        pivot_PP=None if in_frame else pivot_PP,
        turn=turn,
        in_frame=in_frame,
        condition=theirs.condition,
        ridge=theirs.ridge,
        n_anchors=len(tokens.pivot_rows),
        n_shared=len(tokens.pivot_rows),
    )


def _is_centred(model: Weights) -> bool:
    """Whether the norms subtract means; an unknown architecture is only merged in its frame."""
    try:
        return family_of(model.config).norm == "layer"
    except ValueError:
        return False
