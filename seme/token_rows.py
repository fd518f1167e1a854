"""Tokens of the rows: tokenizers of pivot and source compared before any weight is read.

Rows of embeddings and LM head are merged by their number, which has a meaning only where both
tokenizers give the number to the same token. Compared is what the files in the folders say: the
vocabulary, added tokens too. A token that only one of the two has is no difference: its row
means nothing to the other (ours).
"""

import filecmp
import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from seme.alignment.vocabulary import Vocabulary, have_one_vocabulary, read_whole_vocabulary
from seme.checkpoint.protocol import describe
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.renamed import NamedSource
from seme.checkpoint.tokenizer_files import vocabulary_files
from seme.embedding_rows import (
    FittedSource,
    MergeableSource,
    row_differences,
    vocabulary_tensors,
)
from seme.interface import CheckpointMismatchError
from seme.settings import Tokens

_N_NAMED = 3
_NO_TOKEN = "no token"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMatch:
    """The tokens of two tokenizers, matched by their text."""

    pivot: dict[int, bytes]
    """Text of each id of the pivot."""
    source: dict[int, bytes]
    """Text of each id of the source."""
    source_ids: dict[int, int]
    """Id in the source of each id of the pivot whose token both have."""

    def differing(self, n_pivot: int, n_source: int) -> list[int]:
        """List the ids that stand for different tokens, or whose token has another id.

        Args:
            n_pivot: Rows of the pivot; ids at or beyond it have none.
            n_source: Rows of the source.
        """
        return [
            i
            for i, text in sorted(self.pivot.items())
            if i < n_pivot
            and (
                (i < n_source and self.source.get(i, text) != text)
                or (self.source_ids.get(i, i) != i and self.source_ids[i] < n_source)
            )
        ]

    def source_rows(self, n_pivot: int, n_source: int) -> Tensor:
        """Return the source's row of the token of each row of the pivot.

        Returns:
            int64, (n_pivot,); -1 where the source has no row for it. A row of no token in
            either model stays in its place.
        """
        rows = torch.full((n_pivot,), -1)
        for i in range(min(n_pivot, n_source)):
            if i not in self.pivot and i not in self.source:
                rows[i] = i
        for i, j in self.source_ids.items():
            if i < n_pivot and j < n_source:
                rows[i] = j
        return rows

    def first(self, ids: Collection[int]) -> str:
        """Name the first few ids and their tokens in both models."""
        return ", ".join(
            f"{i} is {_shown(self.pivot.get(i))} in the pivot and "
            f"{_shown(self.source.get(i))} in the source"
            for i in list(ids)[:_N_NAMED]
        )


def match_vocabularies(pivot: Vocabulary, source: Vocabulary) -> TokenMatch:
    """Match the tokens of two vocabularies by their text, special tokens by their content."""
    return TokenMatch(
        pivot=_texts(pivot), source=_texts(source), source_ids=dict(_pairs(pivot, source))
    )


def match_tokenizers(folder: Path, other: Path) -> TokenMatch | None:
    """Match the tokens of the tokenizers in two folders; None where they hold one vocabulary.

    Raises:
        ValueError: If one cannot be read, and their files differ.
    """
    if have_one_vocabulary(folder, other):
        return None
    try:
        return match_vocabularies(read_whole_vocabulary(folder), read_whole_vocabulary(other))
    except ValueError:
        if _share_a_file(folder, other):
            return None
        raise


class TokenizerComparison:
    """The pivot's tokenizer, compared with those of sources; each folder is read once."""

    def __init__(self, pivot: Checkpoint, copied: Collection[str], tokens: Tokens) -> None:
        """Read nothing yet.

        Args:
            pivot: The model merged into.
            copied: Tensors that are not merged: their tokens need not agree.
            tokens: What becomes of a source whose tokenizer is not the pivot's.
        """
        self._pivot = pivot
        self._tokens = tokens
        self._merged = [name for name in vocabulary_tensors(pivot) if name not in copied]
        self._all_copied = bool(vocabulary_tensors(pivot)) and not self._merged
        self._read = functools.cache(read_whole_vocabulary)

    def settle(self, index: int, source: MergeableSource) -> tuple[MergeableSource, list[str]]:
        """Compare a source's tokenizer with the pivot's, and put its rows in order if wanted.

        Folders without a tokenizer are not compared, as long as the numbers of rows agree.

        Args:
            index: Of the source.
            source: In the pivot's shape.

        Returns:
            The source, in the order of the pivot's tokens with ``by_text``, and what was done
            with its rows, one line each.

        Raises:
            CheckpointMismatchError: If the tokenizers differ (``same``), share no token
                (``by_text``) or cannot be compared.
        """
        notes = row_differences(index, source)
        if self._all_copied:
            return source, notes
        try:
            match = self._matched(source)
        except ValueError as error:
            if self._tokens == "by_id":
                return source, [*notes, f"{describe(index, source)}: {_NOT_COMPARED}"]
            rows = isinstance(source, FittedSource)
            cause = "has another number of embedding rows than the pivot, and " if rows else ""
            raise CheckpointMismatchError(
                f"{describe(index, source)}: {cause}the tokenizers cannot be compared: {error}; "
                f"put the tokenizer's files into the folder, {self._way_out(by_text=False)}"
            ) from error
        if match is None:
            return source, notes
        if self._tokens == "by_text":
            return self._in_order(index, source, match, notes)
        differing, line = self._differing(index, source, match)
        if not differing:
            return source, notes
        if self._tokens == "by_id":
            return source, [*notes, f"{line}; merged as they stand (tokens=by_id)"]
        raise CheckpointMismatchError(f"{line}; {self._way_out(by_text=True)}")

    def refuse_by_id(self, index: int, source: NamedSource) -> None:
        """Refuse ``by_id`` for a method that matches tokens by their text itself.

        Raises:
            CheckpointMismatchError: If the tokenizers differ.
        """
        if self._tokens != "by_id" or self._all_copied:
            return
        try:
            match = self._matched(source)
        except ValueError:  # the method says so where it needs them
            return
        if match is not None and self._differing(index, source, match)[0]:
            raise CheckpointMismatchError(
                f"{self._differing(index, source, match)[1]}; this method matches tokens by "
                "their text, so that tokens=by_id cannot be had: leave tokens=same"
            )

    def _matched(self, source: MergeableSource) -> TokenMatch | None:
        """Match the tokens of a source; None where there is nothing to compare or do.

        Raises:
            ValueError: If the tokenizers must be compared and cannot.
        """
        of_pivot, of_source = self._pivot.tokenizer_folder, source.tokenizer_folder
        has_both = bool(vocabulary_files(of_pivot) and vocabulary_files(of_source))
        is_needed = isinstance(source, FittedSource) or self._tokens == "by_text"
        if not (has_both or is_needed) or (
            has_both and have_one_vocabulary(of_pivot, of_source)
        ):
            return None
        try:
            return match_vocabularies(self._read(of_pivot), self._read(of_source))
        except ValueError:
            if _share_a_file(of_pivot, of_source) and not isinstance(source, FittedSource):
                return None
            raise

    def _differing(
        self, index: int, source: MergeableSource, match: TokenMatch
    ) -> tuple[list[int], str]:
        """List the differing ids, and say so."""
        own = source.source if isinstance(source, FittedSource) else source
        n_pivot, n_source = 0, 0
        for name in self._merged:
            if name in own.names:
                n_pivot = max(n_pivot, self._pivot.shape(name)[0])
                n_source = max(n_source, own.shape(name)[0])
        if not n_pivot:  # no embedding under a known name
            n_pivot = n_source = max(*match.pivot, *match.source, 0) + 1
        ids = match.differing(n_pivot, n_source)
        return ids, (
            f"{describe(index, source)} has another tokenizer than the pivot: {len(ids)} ids are "
            f"of other tokens: id {match.first(ids)}"
        )

    def _in_order(
        self, index: int, source: MergeableSource, match: TokenMatch, notes: list[str]
    ) -> tuple[MergeableSource, list[str]]:
        """Read a source's rows in the order of the pivot's tokens."""
        own = source.source if isinstance(source, FittedSource) else source
        rows = {
            name: match.source_rows(self._pivot.shape(name)[0], own.shape(name)[0])
            for name in self._merged
            if name in own.names
        }
        moved = {
            name: of_name
            for name, of_name in rows.items()
            if own.shape(name)[0] != len(of_name)
            or not torch.equal(of_name, torch.arange(len(of_name)))
        }
        if not rows or not match.source_ids:
            cause = "share no token" if rows else "have no embedding under a known name"
            raise CheckpointMismatchError(
                f"tokens=by_text cannot put the rows of {describe(index, source)} in order: it "
                f"and the pivot {cause}; {self._way_out(by_text=False)}"
            )
        if not moved:
            return source, notes
        name = next(iter(moved))
        n_kept = sum(1 for i in match.pivot if i < len(moved[name]) and moved[name][i] < 0)
        n_pivot = sum(1 for i in match.pivot if i < len(moved[name]))
        n_left_out = len(match.source.keys() - match.source_ids.values())
        line = (
            f"{describe(index, source)}: rows of {', '.join(moved)} are read in the order of the "
            f"pivot's tokens (tokens=by_text): {n_pivot - n_kept} of its {n_pivot} tokens are in "
            f"the source, at the other {n_kept} the source changes nothing; {n_left_out} tokens "
            "of the source are left out"
        )
        return FittedSource(self._pivot, own, moved), [line]

    def _way_out(self, *, by_text: bool) -> str:
        names = ",".join(f"'{name}'" for name in vocabulary_tensors(self._pivot))
        ways = ["tokens=by_id merges rows as they stand"]
        if by_text:
            ways.insert(0, "tokens=by_text reads the source's rows by the pivot's tokens")
        if names:
            ways.append(f"exclude=[{names}] keeps the pivot's")
        return f"{', '.join(ways)}, or use method=seme, which matches tokens by their text"


_NOT_COMPARED = (
    "rows are merged as they stand (tokens=by_id); the tokenizers could not be compared"
)


def _pairs(pivot: Vocabulary, source: Vocabulary) -> Iterator[tuple[int, int]]:
    """Yield pairs of ids of the same token; special in one model, it may be ordinary in another."""
    for text, ids in pivot.ids.items():
        yield from zip(ids, source.ids.get(text, ()), strict=False)
    contents = {content.encode(): i for content, i in source.specials.items()}
    for text, i in contents.items():
        if text not in source.ids and text in pivot.ids:
            yield pivot.ids[text][0], i
    for content, i in pivot.specials.items():
        if content in source.specials:
            yield i, source.specials[content]
        elif content.encode() in source.ids and content.encode() not in pivot.ids:
            yield i, source.ids[content.encode()][0]


def _texts(vocabulary: Vocabulary) -> dict[int, bytes]:
    texts = {i: text for text, ids in vocabulary.ids.items() for i in ids}
    return texts | {i: content.encode() for content, i in vocabulary.specials.items()}


def _share_a_file(folder: Path, other: Path) -> bool:
    """Return True if a file of both folders holds the same vocabulary, whatever its format."""
    return any(
        filecmp.cmp(file, another, shallow=False)
        for file in vocabulary_files(folder)
        for another in vocabulary_files(other)
        if file.name == another.name
    )


def _shown(token: bytes | None) -> str:
    return _NO_TOKEN if token is None else f"{token.decode(errors='replace')!r:.40}"
