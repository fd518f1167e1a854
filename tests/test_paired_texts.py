"""Texts as two models read them: tokens that end at the same character."""

import pytest
import torch

from seme.alignment.paired_texts import TextReader, paired_by_character, same_tokens
from tests.tiny_tokenizers import tokenizer_of

CONFIG = {"bos_token_id": 0}


LETTERS = ("<s>", "a", "b", "c")


@pytest.fixture
def pivot(tmp_path):
    folder = tokenizer_of(LETTERS, tmp_path / "pivot", pairs=[("a", "b")])
    return TextReader(folder, CONFIG, n_rows=5, at_most=9)


@pytest.fixture
def source(tmp_path):
    folder = tokenizer_of(LETTERS, tmp_path / "source", pairs=[("b", "c")])
    return TextReader(folder, CONFIG, n_rows=5, at_most=9)


def test_text_is_read_behind_the_first_token_with_the_characters_tokens_end_at(pivot, source):
    assert pivot.text([0, 4, 3]) == "abc"
    assert pivot.read("abc") == ([0, 4, 3], {2: 1, 3: 2})  # ab c
    assert source.read("abc") == ([0, 1, 4], {1: 1, 3: 2})  # a bc


def test_tokens_are_paired_where_both_end_at_one_character(pivot, source):
    paired = paired_by_character(torch.tensor([[0, 4, 3], [0, 1, 4]]), pivot, source)
    # abc: ab|c and a|bc end together at 3 only; aab: a|ab and a|a|b at 1 and 3
    assert paired.pivot_ids.tolist() == [[0, 4, 3], [0, 1, 4]]
    assert paired.source_ids.tolist() == [[0, 1, 4, 0], [0, 1, 1, 2]]
    assert paired.pivot_places.tolist() == [2, 4, 5]
    assert paired.source_places.tolist() == [2, 5, 7]


def test_text_is_cut_at_the_context_length(tmp_path):
    folder = tokenizer_of(LETTERS, tmp_path / "model")
    reader = TextReader(folder, {**CONFIG, "max_position_embeddings": 3}, n_rows=4, at_most=9)
    assert reader.read("abc") == ([0, 1, 2], {1: 1, 2: 2})


def test_text_is_cut_at_the_tokens_that_are_read_at_most(tmp_path):
    reader = TextReader(tokenizer_of(LETTERS, tmp_path / "model"), CONFIG, n_rows=4, at_most=3)
    assert reader.read("abc") == ([0, 1, 2], {1: 1, 2: 2})


def test_text_is_cut_in_front_of_a_token_without_a_row(tmp_path):
    folder = tokenizer_of(LETTERS, tmp_path / "model")
    assert TextReader(folder, CONFIG, n_rows=3, at_most=9).read("abca") == (
        [0, 1, 2],
        {1: 1, 2: 2},
    )


def test_first_token_without_a_row_is_left_out(tmp_path):
    reader = TextReader(
        tokenizer_of(LETTERS, tmp_path / "model"), {"bos_token_id": 9}, n_rows=4, at_most=9
    )
    assert reader.read("ab") == ([1, 2], {2: 1})


def test_texts_without_a_letter_are_read_and_nothing_is_paired(tmp_path, pivot):
    source = TextReader(tokenizer_of(LETTERS, tmp_path / "model"), {}, n_rows=4, at_most=9)
    paired = paired_by_character(torch.zeros(2, 3, dtype=torch.int64), pivot, source)
    assert (paired.source_ids.shape, paired.source_ids.dtype) == ((2, 0), torch.int64)
    assert len(paired.source_places) == 0


def test_without_a_token_that_begins_texts_the_first_token_is_not_paired(tmp_path):
    reader = TextReader(tokenizer_of(LETTERS, tmp_path / "model"), {}, n_rows=4, at_most=9)
    assert reader.read("abc") == ([1, 2, 3], {2: 1, 3: 2})


def test_of_one_vocabulary_every_token_but_the_first_is_paired():
    paired = same_tokens(torch.tensor([[7, 8, 9], [7, 5, 6]]))
    assert paired.pivot_places.tolist() == paired.source_places.tolist() == [1, 2, 4, 5]


def test_folder_without_characters_of_tokens_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(
        ValueError, match=r"has none: write one with .*alignment\.anchors=both$"
    ):
        TextReader(tmp_path, CONFIG, n_rows=4, at_most=9)


def test_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        TextReader(tmp_path, CONFIG, n_rows=4, at_most=9)
