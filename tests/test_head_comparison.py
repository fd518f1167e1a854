"""Comparison of LM heads: shared tokens, bases, residual map, identity short-cut."""

import json

import pytest
import torch

import seme.alignment.head_comparison
from seme.alignment.diagnosis import collect_seconds
from seme.alignment.head_comparison import (
    PivotHead,
    embeddings_operator,
    head_bases,
    head_operator,
    head_shape,
    match_tokens,
)
from seme.alignment.tokens import SharedTokens
from seme.architecture.parts import Part, Place
from seme.checkpoint.lora import open_adapter
from seme.checkpoint.reader import open_checkpoint
from tests.adapters import pair, write_adapter
from tests.alignments import comparison_of
from tests.disguise import disguised, open_canonical
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


def tokens_of(tmp_path, pivot_words, source_words, *, spelling="", **settings):
    pivot = opened(tmp_path / "pivot", words=pivot_words)
    source = opened(tmp_path / "source", words=source_words, spelling=spelling, **settings)
    return match_tokens(pivot, source)


@pytest.mark.parametrize("words", [None, WORDS])
@pytest.mark.parametrize("spelling", ["", "\n"])
def test_equal_vocabularies_match_row_by_row(words, spelling, tmp_path):
    assert tokens_of(tmp_path, words, words, spelling=spelling) is None


def test_tokens_are_matched_by_their_text(tmp_path):
    actual = tokens_of(tmp_path, WORDS, [*WORDS[:149:-1], *WORDS[:150]])
    assert actual.pivot_rows.tolist() == list(range(160))
    assert actual.source_rows.tolist() == [*range(10, 160), *range(9, -1, -1)]
    assert actual.overlap == 1.0


def test_source_only_tokens_are_ignored(tmp_path):
    actual = tokens_of(tmp_path, WORDS, [*WORDS, "more", "still more"], vocab_size=162)
    assert actual.source_rows.tolist() == list(range(160))


def test_vocabulary_in_one_model_only_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"source has no vocabulary to match tokens by: put"):
        tokens_of(tmp_path, WORDS, None)


def test_different_row_counts_need_vocabularies(tmp_path):
    with pytest.raises(ValueError, match=r"pivot has no vocabulary to match tokens by"):
        tokens_of(tmp_path, None, None, vocab_size=170)


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(tmp_path):
    pivot = opened(tmp_path / "pivot", words=WORDS)
    base = opened(tmp_path / "base", words=WORDS[::-1])
    folder = write_adapter(base.path, pair(inputs=32, outputs=32))
    adapter = open_adapter(folder, root=tmp_path)
    assert adapter.tokenizer_folder == base.path
    assert match_tokens(pivot, adapter).source_rows.tolist() == list(range(159, -1, -1))
    assert match_tokens(base, adapter) is None


def test_an_adapter_with_a_tokenizer_has_its_own(tmp_path):
    pivot = opened(tmp_path / "pivot", words=WORDS)
    folder = write_adapter(pivot.path, pair(inputs=32, outputs=32))
    ids = {word: row for row, word in enumerate([*WORDS[1:], WORDS[0]])}
    content = {"model": {"type": "WordLevel", "vocab": ids}}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokens = match_tokens(pivot, open_adapter(folder, root=tmp_path))
    assert tokens.source_rows.tolist() == [159, *range(159)]


@pytest.mark.parametrize("has_merges", [False, True])
def test_tokens_added_beside_equal_vocabulary_files_are_matched_by_their_text(
    has_merges, tmp_path
):
    # rows 158 and 159 of the source are the pivot's 159 and 158
    models = [opened(tmp_path / name, words=WORDS[:158]) for name in ("pivot", "source")]
    if has_merges:  # the files of GPT-2
        for model in models:
            (model.path / "tokenizer.json").unlink()
            ids = {word: row for row, word in enumerate(WORDS[:158])}
            (model.path / "vocab.json").write_text(json.dumps(ids))
            (model.path / "merges.txt").write_text("")
    assert match_tokens(*models) is None
    for model, first, second in ((models[0], "<x>", "<y>"), (models[1], "<y>", "<x>")):
        added = {first: 158, second: 159}
        (model.path / "added_tokens.json").write_text(json.dumps(added))
    tokens = match_tokens(*models)
    assert tokens.source_rows.tolist() == [*range(158), 159, 158]


def test_tokens_added_beside_in_other_files_are_the_same_tokens(tmp_path):
    models = [opened(tmp_path / name, words=WORDS[:158]) for name in ("pivot", "source")]
    (models[0].path / "added_tokens.json").write_text('{"<x>": 158}')
    decoder = {"added_tokens_decoder": {"158": {"content": "<x>"}}}
    (models[1].path / "tokenizer_config.json").write_text(json.dumps(decoder))
    assert match_tokens(*models) is None


def test_too_few_shared_tokens_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"width 48 .* 192, .* 158"):
        tokens_of(tmp_path, WORDS, [*WORDS[2:], "a", "b"], hidden_size=48)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_head_bases_are_dual_to_the_gained_head(model_type, tmp_path):
    model = opened(tmp_path / "model", model_type=model_type)
    bases = head_bases(model, None, "the pivot", CPU)
    model = open_canonical(tmp_path / "model")
    head, gain = (model.read(Place(part)) for part in (Part.HEAD, Part.FINAL_NORM))
    identity = bases.rows(0, 160).T @ (head * gain).double()
    torch.testing.assert_close(identity, torch.eye(32).double(), atol=1e-5, rtol=0)


def test_bases_of_token_rows_are_dual_to_these_rows(tmp_path):
    model = opened(tmp_path / "model")
    rows = torch.arange(0, 160, 2)
    bases = head_bases(model, rows, "the pivot", CPU)
    head = tensors_of(tmp_path / "model")["lm_head.weight"]
    gain = tensors_of(tmp_path / "model")["model.norm.weight"]
    identity = bases.rows(0, 80).T @ (head * gain)[rows].double()
    torch.testing.assert_close(identity, torch.eye(32).double(), atol=1e-5, rtol=0)


def test_zero_head_error_names_its_model(tmp_path):
    opened(tmp_path / "model")
    change_tensors(tmp_path / "model", **{"lm_head.weight": torch.zeros(160, 32)})
    model = open_checkpoint(tmp_path / "model", root=tmp_path)
    with pytest.raises(ValueError, match="no semantic bases") as caught:
        head_bases(model, None, "source 3", CPU)
    assert caught.value.__notes__ == ["while solving for the semantic bases of source 3"]


def test_operators_sum_over_shared_tokens(tmp_path):
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
    for i, (pivot_row, source_row) in enumerate(
        zip(tokens.pivot_rows, tokens.source_rows, strict=True)
    ):
        units = [b.unit_rows(i, i + 1)[0] for b in bases]
        of_heads += torch.outer(*units)
        of_embeddings += torch.outer(rows[0][pivot_row], rows[1][source_row])
    torch.testing.assert_close(head_operator(*bases), of_heads, atol=1e-4, rtol=0)
    actual = embeddings_operator(pivot.read(name), source.read(name), tokens)
    torch.testing.assert_close(actual, of_embeddings, atol=1e-4, rtol=0)


def test_head_shape_of_a_tied_head_is_the_embedding(tmp_path):
    assert head_shape(opened(tmp_path / "gemma", model_type="gemma2")) == (160, 32)
    assert head_shape(opened(tmp_path / "neox", model_type="gpt_neox")) == (160, 32)


@pytest.fixture
def pivot(tmp_path):
    return save_tiny(tmp_path / "pivot", "llama")


@pytest.fixture
def other(tmp_path):
    return save_tiny(tmp_path / "other", "llama", seed=1)


@pytest.fixture
def twin(pivot, tmp_path):
    return disguised(pivot, tmp_path / "twin")


def turn_of(pivot, twin):
    """Recover how the disguise turned the stream from its embedding, E' = E T^t."""
    name = "model.embed_tokens.weight"
    return torch.linalg.lstsq(tensors_of(pivot)[name], tensors_of(twin)[name]).solution


def test_model_compared_with_itself_is_in_frame(pivot):
    actual = comparison_of(pivot, pivot)
    assert actual.in_frame
    assert actual.turn.distance < 1e-6
    assert actual.turn.similarity == pytest.approx(1.0)
    assert (actual.tokens, actual.n_anchors) == (None, 160)


def test_cosine_projection_never_takes_the_identity_shortcut(pivot):
    assert not comparison_of(pivot, pivot, projection="cosine", identity_tolerance=9.0).in_frame


@pytest.mark.parametrize("projection", ["orthogonal", "least_squares"])
def test_rotation_of_a_disguised_copy_is_recovered_from_heads(projection, pivot, twin):
    actual = comparison_of(pivot, twin, projection=projection)
    assert not actual.in_frame
    back = turn_of(pivot, twin)  # T takes the twin's frame back to the pivot's
    torch.testing.assert_close(actual.turn.forward_PK, back, atol=1e-4, rtol=0)


def test_only_least_squares_computes_the_pivot_operator(pivot, other):
    assert comparison_of(pivot, other).pivot_PP is None
    actual = comparison_of(pivot, other, projection="least_squares").pivot_PP
    assert torch.equal(actual, actual.T) or torch.allclose(actual, actual.T)
    assert float(actual.trace()) == pytest.approx(160, rel=1e-4)  # of unit rows


def test_other_width_has_no_distance_and_is_not_in_frame(pivot, tmp_path):
    narrow = save_tiny(tmp_path / "narrow", "llama", hidden_size=24, head_dim=8)
    actual = comparison_of(pivot, narrow)
    assert (actual.turn.distance, actual.in_frame) == (None, False)
    assert actual.turn.forward_PK.shape == (32, 24)


def test_layer_norm_map_fixes_the_ones_vector(tmp_path):
    models = [save_tiny(tmp_path / str(seed), "gpt_neox", seed=seed) for seed in (0, 1)]
    turn = comparison_of(*models).turn
    torch.testing.assert_close(turn.forward_PK @ torch.ones(32), torch.ones(32))


def test_stage_seconds_are_collected(pivot, other):
    seconds = {}
    with collect_seconds(seconds):
        comparison_of(pivot, other)
    assert seconds.keys() == {"tokens", "bases", "map"}


def test_pivot_bases_of_a_token_sample_are_cached(make_llama, tmp_path, monkeypatch):
    pivot = open_checkpoint(make_llama(tmp_path / "pivot", 0), root=tmp_path)
    n_solved, real = [], seme.alignment.head_comparison.head_bases
    monkeypatch.setattr(
        seme.alignment.head_comparison,
        "head_bases",
        lambda *arguments: (n_solved.append(1), real(*arguments))[1],
    )
    head = PivotHead(pivot, CPU)
    sample, others = torch.arange(0, 64, 2), torch.arange(1, 64, 2)
    first = head.sample_bases(sample)
    assert head.sample_bases(sample.clone()) is first
    assert len(n_solved) == 1
    head.bases(others)
    assert head.sample_bases(sample) is first
    head.sample_bases(others)
    assert len(n_solved) == 3
