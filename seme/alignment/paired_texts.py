"""Texts as two models read them: tokens of both that end at the same place.

Ours. Models of one vocabulary read the same tokens. Of other models each reads the text with its
own tokenizer, and a token of one is paired with a token of the other where both end at the same
character: there both have read the same text.

Shape suffixes: B texts of a batch, T tokens of a text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from seme.alignment.language_model import context_length, start_token
from seme.architecture.model import CanonicalModel
from seme.checkpoint.regular_file import find_file, read_whole, shown

_MOST_BYTES = 100_000_000
"""Largest tokenizer.json that is read: three times the largest known, Gemma's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTexts:
    """A batch of texts in the tokens of the pivot and of a source."""

    pivot_ids: Tensor
    """int64, (B, T), filled up at the ends with 0."""
    source_ids: Tensor
    """Likewise, of another T."""
    pivot_places: Tensor
    """Flat indices in ``pivot_ids`` of the tokens that are paired, int64."""
    source_places: Tensor
    """Flat indices in ``source_ids`` of their partners."""


def same_tokens(ids_BT: Tensor) -> PairedTexts:
    """Pair texts of one vocabulary, token by token; the first of each, which starts it, is not."""
    places = torch.arange(ids_BT.numel()).view(ids_BT.shape)[:, 1:].flatten()
    return PairedTexts(
        pivot_ids=ids_BT, source_ids=ids_BT, pivot_places=places, source_places=places
    )


class TextReader:
    """Tokenizer of a model, with the character that each token ends at."""

    def __init__(
        self, folder: Path, config: Mapping[str, Any], *, n_rows: int, at_most: int
    ) -> None:
        """Load tokenizer.json, which has the characters of every token.

        Args:
            folder: Folder of the tokenizer.
            config: Configuration of the model: the token that begins a text, the context length.
            n_rows: Rows of its embedding. Texts end in front of a token that has none.
            at_most: Most tokens of a text, with the one that begins it.

        Raises:
            ValueError: If there is no tokenizer.json, or it cannot be read.
        """
        self._tokenizer = _load(folder)
        start = start_token(config)
        self._start = [] if start is None or start >= n_rows else [start]
        self._n_rows = n_rows
        self._most = context_length(config, at_most=at_most)

    def text(self, ids: Sequence[int]) -> str:
        """Decode tokens, without control tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def read(self, text: str) -> tuple[list[int], dict[int, int]]:
        """Encode a text behind the token that begins one.

        Returns:
            The tokens, and the place in them of the last token that ends at each character.
        """
        encoding: Encoding = self._tokenizer.encode(text, add_special_tokens=False)
        known = takewhile(lambda token_id: token_id < self._n_rows, encoding.ids)
        ids = [*self._start, *known][: self._most]
        ends = {
            end: place
            for place, (begin, end) in enumerate(encoding.offsets, start=len(self._start))
            if end > begin and 0 < place < len(ids)
        }
        return ids, ends


def paired_by_character(ids_BT: Tensor, pivot: TextReader, source: TextReader) -> PairedTexts:
    """Pair texts of two vocabularies where tokens end at the same character.

    Args:
        ids_BT: Tokens of the pivot; the texts that they spell are read anew by both.
        pivot: The pivot's tokenizer.
        source: The source's.
    """
    texts = [pivot.text(row) for row in ids_BT.tolist()]
    read = [(pivot.read(text), source.read(text)) for text in texts]
    pivot_ids = _filled_up([ids for (ids, _), _ in read])
    source_ids = _filled_up([ids for _, (ids, _) in read])
    places = [
        (row * pivot_ids.shape[1] + ends[end], row * source_ids.shape[1] + source_ends[end])
        for row, ((_, ends), (_, source_ends)) in enumerate(read)
        for end in sorted(ends.keys() & source_ends.keys())
    ]
    paired = torch.tensor(places, dtype=torch.int64).view(-1, 2)
    return PairedTexts(
        pivot_ids=pivot_ids,
        source_ids=source_ids,
        pivot_places=paired[:, 0].contiguous(),
        source_places=paired[:, 1].contiguous(),
    )


def readers_of(
    pivot: CanonicalModel, source: CanonicalModel, *, at_most: int
) -> tuple[TextReader, TextReader]:
    """Load the tokenizers of two models.

    Raises:
        ValueError: If one has no tokenizer.json.
    """
    readers = [
        TextReader(
            model.weights.tokenizer_folder,
            model.weights.config,
            n_rows=model.dimensions.n_tokens,
            at_most=at_most,
        )
        for model in (pivot, source)
    ]
    return readers[0], readers[1]


def tokenizer_file(folder: Path) -> Path:
    """Find the tokenizer.json of a model.

    Raises:
        ValueError: If there is none.
    """
    path = find_file(folder, "tokenizer.json")
    if path is None:
        raise ValueError(
            "alignment.anchors=activations pairs tokens of two tokenizers by the characters they "
            f"end at, which only a tokenizer.json tells, and {folder} has none: write one with "
            "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder), or use "
            "alignment.anchors=both"
        )
    return path


def _load(folder: Path) -> Tokenizer:
    path = tokenizer_file(folder)
    content = read_whole(path, most=_MOST_BYTES)
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # whatever the library makes of a damaged file
        raise ValueError(
            f"{path} cannot be read as a tokenizer: {shown(str(error))}"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _filled_up(rows: Sequence[Sequence[int]]) -> Tensor:
    length = max(map(len, rows))
    padded = [[*row, *[0] * (length - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64)
