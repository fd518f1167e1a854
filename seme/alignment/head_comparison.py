"""Compare LM heads: residual map of a source, or the proof that it needs none.

SeMe, https://arxiv.org/abs/2505.20144. Paper: the map from the semantic bases of the LM head.
Ours: tokens of two vocabularies matched by their text, and the identity short-cut for a source
already in the pivot's frame. A sample of the rows detects such a source; all shared rows are
read only of a source that must be mapped.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seme.alignment.diagnosis import stage
from seme.alignment.options import AlignmentOptions
from seme.alignment.residual_map import (
    ResidualMap,
    embedding_operator,
    residual_map,
    residual_operator,
)
from seme.alignment.semantic_bases import Bases, semantic_bases
from seme.alignment.tokens import MIN_TOKENS_PER_DIMENSION, SharedTokens, shared_tokens
from seme.alignment.vocabulary import have_one_vocabulary, read_whole_vocabulary
from seme.architecture.families import family_of
from seme.architecture.readouts import readout_of
from seme.budget import compared_bytes
from seme.checkpoint.protocol import Weights
from seme.checkpoint.tokenizer_files import VOCABULARIES, vocabulary_files

_BLOCK_ROWS = 2048
"""Tokens upcast to float64 at a time: 67 MB at width 4096."""


def match_tokens(pivot: Weights, source: Weights) -> SharedTokens | None:
    """Match the tokens of two models by their text.

    Returns:
        None where the heads match row for row: one vocabulary, or no tokenizer in either
        folder.

    Raises:
        ValueError: If too few tokens are shared, or only one model states its vocabulary.
    """
    if match_row_for_row(pivot, source):
        return None
    n_pivot, width = head_shape(pivot)
    n_source, source_width = head_shape(source)
    folders = (pivot.tokenizer_folder, source.tokenizer_folder)
    has_pivot, has_source = (bool(vocabulary_files(folder)) for folder in folders)
    if not has_pivot or not has_source:
        lacking = folders[1] if has_pivot else folders[0]
        raise ValueError(
            f"{lacking} has no vocabulary to match tokens by: put its tokenizer files "
            f"({', '.join(VOCABULARIES)}) into that folder"
        )
    pivot_vocabulary, source_vocabulary = map(read_whole_vocabulary, folders)
    if pivot_vocabulary == source_vocabulary and n_pivot == n_source:
        return None
    return shared_tokens(
        pivot_vocabulary,
        source_vocabulary,
        n_pivot=n_pivot,
        n_source=n_source,
        width=max(width, source_width),
    )


def match_row_for_row(pivot: Weights, source: Weights) -> bool:
    """Return True if two heads have equally many rows, and their folders one vocabulary or none.

    Reads no vocabulary: of equal ones in different files it does not know.
    """
    folders = (pivot.tokenizer_folder, source.tokenizer_folder)
    return head_shape(pivot)[0] == head_shape(source)[0] and (
        not any(map(vocabulary_files, folders)) or have_one_vocabulary(*folders)
    )


def head_bases(model: Weights, rows: Tensor | None, owner: str, device: torch.device) -> Bases:
    """Solve for the semantic bases of a selection of tokens; see :func:`semantic_bases`.

    Args:
        model: The model; only these rows of its head are read, and its final norm.
        rows: The tokens, int64; None for all.
        owner: Name of the model in messages.
        device: Device of the arithmetic.

    Returns:
        Bases whose ``head_VD`` holds these rows, in their order.
    """
    try:
        readout = readout_of(model.config, model.names)
        gain_D = model.read(readout.norm).to(device, torch.float32) + readout.gain_offset
        head_VD = (
            model.read(readout.head) if rows is None else read_rows(model, readout.head, rows)
        )
        return semantic_bases(head_VD.to(device), gain_D, block_rows=_BLOCK_ROWS)
    except ValueError as error:
        error.add_note(f"while solving for the semantic bases of {owner}")
        raise


def read_rows(model: Weights, name: str, rows: Tensor) -> Tensor:
    """Read rows of a matrix, int64; reads all of it if they are over a quarter."""
    n_rows, width = model.shape(name)
    if len(rows) > n_rows // 4:
        matrix = model.read(name)
        are_all = len(rows) == n_rows and bool((rows.diff() == 1).all())
        return matrix if are_all else matrix[rows]
    opened = model.opened(name)
    return torch.stack([opened.read(r * width, (r + 1) * width) for r in rows.tolist()])


def head_operator(pivot: Bases, source: Bases) -> Tensor:
    """Sum the paper's operator M = U_P^T U_k of tokens paired row by row, float64, (P, K)."""
    return residual_operator(pivot, source, block_rows=_BLOCK_ROWS)


def embeddings_operator(pivot: Tensor, source: Tensor, tokens: SharedTokens | None) -> Tensor:
    """Sum the same operator of the embeddings' unit rows (ours), float64, (P, K)."""
    rows = (None, None) if tokens is None else (tokens.pivot_rows, tokens.source_rows)
    return embedding_operator(pivot, source, *rows, block_rows=_BLOCK_ROWS)


def head_shape(model: Weights) -> tuple[int, int]:
    """Rows and width of a model's LM head."""
    rows, width = model.shape(readout_of(model.config, model.names).head)
    return rows, width


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadComparison:
    """Outcome of comparing the LM heads of the pivot and a source."""

    tokens: SharedTokens | None
    """None: row for row."""
    operator_PK: Tensor | None
    """M, float64; None where the identity short-cut is taken: nothing needs it then."""
    pivot_PP: Tensor | None
    """The same operator of the pivot with itself; for least squares only."""
    turn: ResidualMap
    """Map from the compared tokens alone."""
    in_frame: bool
    """The identity short-cut is taken."""
    condition: float
    """Condition number of the source's head with its final gain."""
    ridge: float
    """Ridge added to the source's Gram matrix; 0 without one."""
    n_anchors: int
    """Tokens compared."""
    n_shared: int
    """Tokens that both models have."""


class PivotHead:
    """LM head of the pivot; bases of the last sample of tokens are cached between sources."""

    def __init__(self, pivot: Weights, device: torch.device) -> None:
        self.model = pivot
        self.device = device
        self._cached: tuple[Tensor, Bases] | None = None

    def bases(self, rows: Tensor) -> Bases:
        """Solve for the bases of these rows, int64; not cached: those of all rows are large."""
        return head_bases(self.model, rows, "the pivot", self.device)

    def sample_bases(self, rows: Tensor) -> Bases:
        """Return the bases of a sample of rows, int64; the last sample's are cached."""
        if self._cached is None or not torch.equal(rows, self._cached[0]):
            self._cached = rows, self.bases(rows)
        return self._cached[1]


def compare_heads(
    pivot_head: PivotHead, source: Weights, owner: str, options: AlignmentOptions
) -> HeadComparison:
    """Compare a source with the pivot by their LM heads alone; no layer is read.

    Where that leaves most tokens out, an evenly spaced sample is compared first. If it shows
    the source in the pivot's frame, the source is: one in another frame has distance 1.4
    whatever the tokens, and a sample adds no more than noise to the distance of one in the
    frame.

    Args:
        pivot_head: The pivot's head, and the device of the arithmetic.
        source: The source.
        owner: Name of the source in messages.
        options: ``projection`` and ``identity_tolerance`` are used.

    Raises:
        ValueError: If a head cannot be found or has no bases, or too few tokens are shared.
    """
    pivot = pivot_head.model
    with stage("tokens"):
        tokens = match_tokens(pivot, source)
    shared = tokens or _row_for_row(pivot)
    sample = _sample(shared, head_shape(pivot)[1])
    if sample is not None:
        with stage("bases"):
            bases = pivot_head.sample_bases(sample.pivot_rows)
        comparison = _compare(pivot_head, bases, source, owner, sample, options)
        if comparison.in_frame:
            return replace(comparison, tokens=tokens, n_shared=len(shared.pivot_rows))
    with stage("bases"):
        bases = pivot_head.bases(shared.pivot_rows)
    comparison = _compare(pivot_head, bases, source, owner, shared, options)
    return replace(comparison, tokens=tokens)


def comparing_bytes(pivot: Weights, n_sources: int) -> int:
    """Estimate the memory of the first comparison of all sources with the pivot, in bytes."""
    n_tokens, width = head_shape(pivot)
    itemsize = pivot.dtype(readout_of(pivot.config, pivot.names).head).itemsize
    return compared_bytes(_sample_size(n_tokens, width), width, n_sources, itemsize=itemsize)


def _row_for_row(pivot: Weights) -> SharedTokens:
    rows = torch.arange(head_shape(pivot)[0])
    return SharedTokens(pivot_rows=rows, source_rows=rows, overlap=1.0)


def _sample(tokens: SharedTokens, width: int) -> SharedTokens | None:
    """Evenly spaced tokens, as many as are compared first; None if that is all of them."""
    n = len(tokens.pivot_rows)
    size = _sample_size(n, width)
    if size == n:
        return None
    places = torch.arange(size) * n // size
    return replace(
        tokens, pivot_rows=tokens.pivot_rows[places], source_rows=tokens.source_rows[places]
    )


def _sample_size(n_tokens: int, width: int) -> int:
    """Return the number of tokens that a map needs; all if that is more than half of them."""
    needed = MIN_TOKENS_PER_DIMENSION * width
    return needed if 2 * needed <= n_tokens else n_tokens


def _compare(
    pivot_head: PivotHead,
    pivot_bases: Bases,
    source: Weights,
    owner: str,
    tokens: SharedTokens,
    options: AlignmentOptions,
) -> HeadComparison:
    """Compare the heads in these shared tokens, of which the pivot's bases are given."""
    with stage("bases"):
        source_bases = head_bases(source, tokens.source_rows, owner, pivot_head.device)
    with stage("map"):
        operator_PK = head_operator(pivot_bases, source_bases)
        pivot_PP = None
        if options.projection == "least_squares":
            pivot_PP = head_operator(pivot_bases, pivot_bases)
        turn = residual_map(
            operator_PK,
            projection=options.projection,
            centred=_is_centred(pivot_head.model),
            n_anchors=len(tokens.pivot_rows),
            pivot_PP=pivot_PP,
        )
    close = turn.distance is not None and turn.distance < options.identity_tolerance
    in_frame = close and options.projection != "cosine"
    return HeadComparison(
        tokens=tokens,
        operator_PK=None if in_frame else operator_PK,
        pivot_PP=None if in_frame else pivot_PP,
        turn=turn,
        in_frame=in_frame,
        condition=source_bases.condition,
        ridge=source_bases.ridge,
        n_anchors=len(tokens.pivot_rows),
        n_shared=len(tokens.pivot_rows),
    )


def _is_centred(model: Weights) -> bool:
    """Return True if the norms subtract means; False for an unknown architecture.

    The latter is merged in its own frame only.
    """
    try:
        return family_of(model.config).norm == "layer"
    except ValueError:
        return False
