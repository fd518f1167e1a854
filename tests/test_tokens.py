"""Tokens that two vocabularies share."""

import pytest
import torch
from tokenizers import Tokenizer

from seme.alignment.tokens import MIN_OVERLAP, shared_tokens
from seme.alignment.vocabulary import Vocabulary, read_vocabulary
from tests.tokenizer_folders import (
    SPECIAL,
    byte_level_bpe,
    metaspace_bpe,
    metaspace_unigram,
    plain,
    stored,
    vocabulary,
)


def shared(pivot, source, n_pivot=100, n_source=100, width=1):
    return shared_tokens(pivot, source, n_pivot=n_pivot, n_source=n_source, width=width)


@pytest.mark.parametrize("other", [metaspace_bpe, metaspace_unigram])
def test_byte_level_and_sentencepiece_tokens_match_by_text(other, tmp_path):
    pivot_tokenizer, source_tokenizer = byte_level_bpe(), other()
    actual = shared(
        stored(pivot_tokenizer, tmp_path / "a"),
        stored(source_tokenizer, tmp_path / "b"),
        n_pivot=400,
        n_source=400,
    )
    pairs = dict(zip(actual.pivot_rows.tolist(), actual.source_rows.tolist(), strict=True))
    assert pairs[pivot_tokenizer.token_to_id(SPECIAL)] == source_tokenizer.token_to_id(SPECIAL)
    written = {
        pivot_tokenizer.decode([p]): source_tokenizer.id_to_token(s) for p, s in pairs.items()
    }
    assert written.items() >= {" the": "▁the", "t": "t", ",": ",", " ": "▁"}.items()
    assert all(spelled.replace("▁", " ") == text for text, spelled in written.items() if text)
    assert actual.overlap == len(pairs) / pivot_tokenizer.get_vocab_size()


def test_shared_tokens_of_zoo_models_decode_to_equal_text(repository):
    folders = [repository / "eval/zoo/models" / name for name in ("base", "foreign")]
    pivot_tokenizer, source_tokenizer = (
        Tokenizer.from_file(str(f / "tokenizer.json")) for f in folders
    )
    actual = shared(*map(read_vocabulary, folders), n_pivot=1024, n_source=1280, width=160)
    decoded = [
        [t.decode([row], skip_special_tokens=False) for row in rows.tolist()]
        for t, rows in (
            (pivot_tokenizer, actual.pivot_rows),
            (source_tokenizer, actual.source_rows),
        )
    ]
    assert decoded[0] == decoded[1]
    common = pivot_tokenizer.get_vocab().keys() & source_tokenizer.get_vocab().keys()
    assert len(decoded[0]) == len(common) > 900
    assert actual.overlap == len(common) / 1024


def test_shared_rows_are_sorted_by_pivot_row():
    pivot = Vocabulary(ids={b"a": (3,), b"b": (2,), b"c": (1,)}, specials={"d": 0})
    actual = shared(pivot, vocabulary("x", "a", "b", "c", d=4))
    assert actual.pivot_rows.tolist() == [0, 1, 2, 3]
    assert actual.source_rows.tolist() == [4, 3, 2, 1]
    assert (actual.pivot_rows.dtype, actual.overlap) == (torch.int64, 1.0)


def test_overlap_is_relative_to_the_pivot_vocabulary_with_specials():
    pivot, source = vocabulary(*"abcdef", end=6, pad=7), vocabulary(*"abcd", end=9)
    actual = shared(pivot, source)
    assert actual.overlap == 5 / 8
    assert (actual.pivot_rows[-1], actual.source_rows[-1]) == (6, 9)


def test_special_tokens_do_not_match_plain_text():
    actual = shared(vocabulary(*"abcd", e=4), vocabulary(*"abcde"))
    assert actual.pivot_rows.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("pivot", "source", "n_pivot", "n_source", "n_shared", "overlap"),
    [
        ("abcdef", "abcdefg", 4, 9, 4, 4 / 6),  # ids beyond the rows of a head are ignored
        ("abcdef", "abcdefg", 9, 4, 4, 4 / 6),
        ("abc", "abc", 8, 8, 8, 1.0),  # one vocabulary and size: padding rows are shared
        ("abcd", "abcd", 8, 9, 4, 1.0),  # other sizes: tokens only
    ],
)
def test_shared_rows_are_within_both_heads_and_include_padding_only_of_equal_heads(
    pivot, source, n_pivot, n_source, n_shared, overlap
):
    actual = shared(vocabulary(*pivot), vocabulary(*source), n_pivot, n_source)
    assert actual.pivot_rows.tolist() == actual.source_rows.tolist() == list(range(n_shared))
    assert actual.overlap == overlap


def test_plain_token_has_precedence_over_a_byte_token(tmp_path):
    tokens = {"<0x61>": 0, "a": 1, "<0x0A>": 2}
    folder = plain(tmp_path, tokens, type="BPE", merges=[], byte_fallback=True)
    actual = read_vocabulary(folder)
    assert actual.ids == {b"a": (1, 0), b"\n": (2,)}
    twice = shared(actual, vocabulary("a", "\n", "c", "d"), width=0)
    assert twice.pivot_rows.tolist() == [1, 2]


def test_too_small_overlap_is_refused():
    pivot = vocabulary(*map(str, range(40)))
    assert shared(pivot, vocabulary(*"abcd0123"), width=1).overlap == MIN_OVERLAP
    with pytest.raises(ValueError, match=r"least 10.0%.* share 7.5%: 3 tokens .* 40 and .* 8;"):
        shared(pivot, vocabulary(*"abcde012"))


def test_fewer_than_four_shared_tokens_per_dimension_are_refused():
    pivot, source = vocabulary(*"abcdefgh"), vocabulary(*"abcdefghi")
    assert len(shared(pivot, source, width=2).pivot_rows) == 8
    with pytest.raises(ValueError, match=r"width 3 .* 12, .* share 8 tokens"):
        shared(pivot, source, width=3)
