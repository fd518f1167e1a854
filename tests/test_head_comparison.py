"""The anchors of a source: tokens, bases of the head, embeddings."""

import json

import pytest
import torch

from seme.alignment.head_comparison import (
    embeddings_operator,
    head_bases,
    head_operator,
    head_shape,
    match_tokens,
)
from seme.alignment.tokens import SharedTokens
from seme.architecture.parts import Part, Place
from seme.checkpoint.reader import open_checkpoint
from tests.disguise import anatomy_of
from tests.seme_merges import change_tensors, tensors_of
from tests.tiny_models import save_tiny

CPU = torch.device("cpu")
WORDS = [f"w{row}" for row in range(160)]


def opened(folder, *, seed=0, model_type="llama", words=None, spelling="", **settings):
    """Save and open a tiny model; with words, write the tokenizer.json of its rows."""
    save_tiny(folder, model_type, seed=seed, **settings)
    if words is not None:
        ids = {word: row for row, word in enumerate(words)}
        tokenizer = {"model": {"type": "WordLevel", "vocab": ids}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer) + spelling)
    return open_checkpoint(folder, root=folder)


def tokens_of(tmp_path, ours, theirs, *, spelling="", **settings):
    pivot = opened(tmp_path / "pivot", words=ours)
    source = opened(tmp_path / "source", words=theirs, spelling=spelling, **settings)
    return match_tokens(pivot, source, min_overlap=0.1)


@pytest.mark.parametrize("words", [None, WORDS])
@pytest.mark.parametrize("spelling", ["", "\n"])
def test_one_vocabulary_stands_row_for_row_however_its_file_is_written(
    words, spelling, tmp_path
):
    assert tokens_of(tmp_path, words, words, spelling=spelling) is None


def test_tokens_are_found_by_their_text(tmp_path):
    found = tokens_of(tmp_path, WORDS, [*WORDS[:149:-1], *WORDS[:150]])
    assert found.pivot_rows.tolist() == list(range(160))
    assert found.source_rows.tolist() == [*range(10, 160), *range(9, -1, -1)]
    assert found.overlap == 1.0


def test_tokens_of_the_source_alone_are_left_out(tmp_path):
    found = tokens_of(tmp_path, WORDS, [*WORDS, "more", "still more"], vocab_size=162)
    assert found.source_rows.tolist() == list(range(160))


def test_a_vocabulary_beside_one_model_only_is_no_help(tmp_path):
    with pytest.raises(ValueError, match=r"source has no vocabulary to match tokens by: put"):
        tokens_of(tmp_path, WORDS, None)


def test_equal_rows_are_not_assumed_of_heads_of_different_sizes(tmp_path):
    with pytest.raises(ValueError, match=r"pivot has no vocabulary to match tokens by"):
        tokens_of(tmp_path, None, None, vocab_size=170)


def test_too_few_shared_tokens_for_the_wider_model_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"width 48 needs at least .* 192, the models share 158"
    ):
        tokens_of(tmp_path, WORDS, [*WORDS[2:], "a", "b"], hidden_size=48)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_bases_are_dual_to_the_head_with_the_final_gain(model_type, tmp_path):
    model = opened(tmp_path / "model", model_type=model_type)
    bases = head_bases(model, None, "the pivot", CPU)
    anatomy = anatomy_of(tmp_path / "model")
    head, gain = (anatomy.read(Place(part)) for part in (Part.HEAD, Part.FINAL_NORM))
    identity = bases.rows(0, 160).T @ (head * gain).double()
    torch.testing.assert_close(identity, torch.eye(32).double(), atol=1e-5, rtol=0)


def test_bases_of_some_tokens_are_dual_to_their_rows_of_the_head(tmp_path):
    model = opened(tmp_path / "model")
    rows = torch.arange(0, 160, 2)
    bases = head_bases(model, rows, "the pivot", CPU)
    head = tensors_of(tmp_path / "model")["lm_head.weight"]
    gain = tensors_of(tmp_path / "model")["model.norm.weight"]
    identity = bases.rows(0, 80).T @ (head * gain)[rows].double()
    torch.testing.assert_close(identity, torch.eye(32).double(), atol=1e-5, rtol=0)


def test_the_owner_of_a_head_without_bases_is_named(tmp_path):
    opened(tmp_path / "model")
    change_tensors(tmp_path / "model", **{"lm_head.weight": torch.zeros(160, 32)})
    model = open_checkpoint(tmp_path / "model", root=tmp_path)
    with pytest.raises(ValueError, match="no semantic bases") as caught:
        head_bases(model, None, "source 3", CPU)
    assert caught.value.__notes__ == ["while solving for the semantic bases of source 3"]


def test_both_operators_sum_over_the_shared_tokens(tmp_path):
    pivot, source = (opened(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    tokens = SharedTokens(
        pivot_rows=torch.arange(150), source_rows=torch.arange(159, 9, -1), overlap=0.9
    )
    bases = [
        head_bases(model, rows, "one", CPU)
        for model, rows in ((pivot, tokens.pivot_rows), (source, tokens.source_rows))
    ]
    of_heads = torch.zeros(32, 32, dtype=torch.float64)
    of_embeddings = torch.zeros(32, 32, dtype=torch.float64)
    name = "model.embed_tokens.weight"
    rows = [
        torch.nn.functional.normalize(model.read(name).double()) for model in (pivot, source)
    ]
    for i, (ours, theirs) in enumerate(zip(tokens.pivot_rows, tokens.source_rows, strict=True)):
        units = [b.unit_rows(i, i + 1)[0] for b in bases]
        of_heads += torch.outer(*units)
        of_embeddings += torch.outer(rows[0][ours], rows[1][theirs])
    torch.testing.assert_close(head_operator(*bases), of_heads, atol=1e-4, rtol=0)
    found = embeddings_operator(pivot.read(name), source.read(name), tokens)
    torch.testing.assert_close(found, of_embeddings, atol=1e-4, rtol=0)


def test_a_tied_head_has_the_shape_of_the_embedding(tmp_path):
    assert head_shape(opened(tmp_path / "gemma", model_type="gemma2")) == (160, 32)
    assert head_shape(opened(tmp_path / "neox", model_type="gpt_neox")) == (160, 32)
