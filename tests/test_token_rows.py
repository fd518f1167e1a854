"""Tokenizers of pivot and sources compared; rows read in the order of the pivot's tokens."""

import functools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from baselines.average import merge as average
from baselines.ties import merge as ties
from seme.alignment.vocabulary import Vocabulary
from seme.checkpoint.lora import open_adapter
from seme.checkpoint.reader import open_checkpoint
from seme.interface import CheckpointMismatchError
from seme.plan import plan_merge
from seme.token_rows import match_vocabularies
from tests.adapters import pair, write_adapter
from tests.settings import SETTINGS

AVERAGE = functools.partial(average, weights=None)
TIES = functools.partial(ties, density=0.5, lam=1.0, scope="model", trim_ties="exact")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WORDS = tuple(f"token-{i}" for i in range(60))


def add_tokenizer(folder, words, added=()):
    """Write a tokenizer of words by id, special tokens after them."""
    tokens = [{"content": content, "id": i, "special": True} for content, i in added]
    model = {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}}
    content = {"model": model, "added_tokens": tokens}
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.fixture
def llama(tmp_path, make_llama):
    """A tiny Llama of 64 rows: ``llama("pivot", WORDS, added=[("<pad>", 60)])``."""

    def make(name, words=WORDS, *, added=(), **options):
        folder = make_llama(tmp_path / name, sum(map(ord, name)), **options)
        add_tokenizer(folder, words, added)
        return open_checkpoint(folder, root=tmp_path)

    return make


@pytest.fixture
def permuted(tmp_path):
    """The same model with its tokens in another order, and what its rows are: row, old row."""

    def make(model):
        words = list(json.loads((model.path / "tokenizer.json").read_text())["model"]["vocab"])
        order = torch.randperm(len(words), generator=torch.Generator().manual_seed(1)).tolist()
        folder = tmp_path / f"{model.path.name}-permuted"
        folder.mkdir()
        (folder / "config.json").write_bytes((model.path / "config.json").read_bytes())
        tensors = load_file(model.path / "model.safetensors")
        for name in (EMBEDDING, HEAD):
            rows = [*order, *range(len(order), len(tensors[name]))]
            tensors[name] = tensors[name][rows].contiguous()
        save_file(tensors, folder / "model.safetensors")
        add_tokenizer(folder, [words[i] for i in order])
        return open_checkpoint(folder, root=tmp_path)

    return make


def test_permuted_vocabulary_is_refused_with_the_first_ids_and_the_ways_out(llama, merge):
    words = [WORDS[1], WORDS[0], *WORDS[2:]]
    pivot, source = llama("pivot"), llama("source", words)
    message = (
        r"^source 0 \(.*/source\) has another tokenizer than the pivot: 2 ids are of other "
        r"tokens: id 0 is 'token-0' in the pivot and 'token-1' in the source, 1 is 'token-1' in "
        r"the pivot and 'token-0' in the source; tokens=by_text .*, tokens=by_id .*, "
        r"exclude=\['lm_head.weight','model.embed_tokens.weight'\] keeps the pivot's, or use "
        r"method=seme"
    )
    with pytest.raises(CheckpointMismatchError, match=message):
        merge(AVERAGE, pivot, source)


def test_a_plan_refuses_what_the_merge_would(llama, tmp_path):
    pivot, source = llama("pivot"), llama("source", WORDS[::-1])
    with pytest.raises(CheckpointMismatchError, match="60 ids are of other tokens"):
        plan_merge(AVERAGE, pivot, [source], tmp_path / "merged", settings=SETTINGS)


def test_another_added_token_in_a_spare_row_is_refused(llama, merge):
    pivot = llama("pivot", added=[("<|user|>", 60)])
    source = llama("source", added=[("<|tool|>", 60)])
    message = r"1 ids are .* id 60 is '<|user|>' in the pivot and '<|tool|>' in the source"
    with pytest.raises(CheckpointMismatchError, match=message.replace("|", r"\|")):
        merge(AVERAGE, pivot, source)


def test_a_token_that_only_one_model_has_is_no_difference(llama, merge):
    pivot, source = llama("pivot"), llama("source", added=[("<pad>", 60)])
    merged, report = merge(AVERAGE, pivot, source)
    assert torch.equal(merged[EMBEDDING], source.read(EMBEDDING))
    assert not any("token" in line for line in report.warnings)


def test_a_token_at_another_id_is_a_difference(llama, merge):
    pivot, source = llama("pivot", added=[("<pad>", 60)]), llama("s", added=[("<pad>", 61)])
    message = "id 60 is '<pad>' in the pivot and no token in the source"
    with pytest.raises(CheckpointMismatchError, match=message):
        merge(AVERAGE, pivot, source)


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json"])
def test_tokens_added_beside_the_vocabulary_are_compared(llama, merge, name):
    pivot, source = llama("pivot"), llama("source")
    for model, token in ((pivot, "<a>"), (source, "<b>")):
        decoder = {"added_tokens_decoder": {"60": {"content": token}}}
        content = {token: 60} if name == "added_tokens.json" else decoder
        (model.path / name).write_text(json.dumps(content))
    with pytest.raises(CheckpointMismatchError, match="id 60 is '<a>' in the pivot and '<b>'"):
        merge(AVERAGE, pivot, source)


def test_damaged_added_tokens_are_named(llama, merge):
    pivot, source = llama("pivot"), llama("source")
    (source.path / "added_tokens.json").write_text('{"<a>": "sixty"}')
    message = r"cannot be compared: the id of '<a>' must be a whole number, got 'sixty'"
    with pytest.raises(CheckpointMismatchError, match=message):
        merge(AVERAGE, pivot, source)


@pytest.mark.parametrize("method", [AVERAGE, TIES], ids=["average", "ties"])
def test_by_text_of_one_set_of_tokens_is_the_merge_before_the_permutation(
    llama, permuted, merge, method
):
    pivot, source = llama("pivot"), llama("source")
    expected, _ = merge(method, pivot, source, folder="expected")
    merged, report = merge(method, pivot, permuted(source), tokens="by_text")
    assert all(torch.equal(merged[name], values) for name, values in expected.items())
    assert any(
        "(tokens=by_text): 60 of its 60 tokens are in the source, at the other 0 the source "
        "changes nothing; 0 tokens of the source are left out" in line
        for line in report.warnings
    )


def test_by_text_reads_each_token_wherever_the_source_has_it(llama, merge):
    # by a dictionary from text to row, element by element
    words = ["new", *WORDS[40:], *WORDS[:30]]
    pivot, source = llama("pivot"), llama("source", words)
    merged, report = merge(AVERAGE, pivot, source, tokens="by_text")
    row_of = {word: i for i, word in enumerate(words)}
    for name in (EMBEDDING, HEAD):
        own, other = pivot.read(name), source.read(name)
        for i, word in enumerate(WORDS):
            row = other[row_of[word]] if word in row_of else own[i]
            assert torch.equal(merged[name][i], row)
        assert torch.equal(merged[name][60:], other[60:])  # of no token in either
    assert any(
        "50 of its 60 tokens are in the source, at the other 10 the source changes nothing; 1 "
        "tokens of the source are left out" in line
        for line in report.warnings
    )


def test_by_text_reads_any_part_of_a_tensor(llama, permuted, merge):
    # two models of 64 x 16: reads that start and stop within rows, in one run and in many
    pivot, source = llama("pivot"), llama("source", dtype=torch.bfloat16)
    merged, _ = merge(AVERAGE, pivot, permuted(source), tokens="by_text")
    assert torch.equal(merged[HEAD], source.read(HEAD).float())


def test_by_text_of_more_rows(llama, merge):
    pivot = llama("pivot")
    source = llama("source", [*WORDS[::-1], *(f"more-{i}" for i in range(10))], vocab_size=72)
    merged, report = merge(AVERAGE, pivot, source, tokens="by_text")
    assert torch.equal(merged[EMBEDDING][:60], source.read(EMBEDDING)[:60].flip(0))
    assert torch.equal(merged[EMBEDDING][60:], pivot.read(EMBEDDING)[60:])
    assert any("10 tokens of the source are left out" in line for line in report.warnings)


def test_by_text_permutes_the_bias_of_the_head(model, merge):
    models = []
    for name, words in (("pivot", WORDS), ("source", WORDS[::-1])):
        start = 0.0 if name == "pivot" else 100.0
        tensors = {"wte.weight": torch.ones(64, 4), "lm_head.bias": torch.arange(64.0) + start}
        models.append(model(name, tensors))
        add_tokenizer(models[-1].path, words)
    merged, _ = merge(AVERAGE, *models, tokens="by_text")
    assert merged["lm_head.bias"].tolist() == [*range(159, 99, -1), *range(160, 164)]


def test_by_id_merges_rows_as_they_stand_and_says_so(llama, merge):
    pivot, source = llama("pivot"), llama("source", WORDS[::-1])
    merged, report = merge(AVERAGE, pivot, source, tokens="by_id")
    assert torch.equal(merged[EMBEDDING], source.read(EMBEDDING))
    (line,) = [line for line in report.warnings if "tokenizer" in line]
    assert "60 ids are of other tokens: id 0 is 'token-0' in the pivot and 'token-59'" in line
    assert line.endswith("; merged as they stand (tokens=by_id)")


@pytest.mark.parametrize("lacking", [["pivot"], ["source"], ["pivot", "source"]])
def test_a_folder_without_a_tokenizer_is_not_compared(llama, merge, lacking):
    models = {"pivot": llama("pivot"), "source": llama("source", WORDS[::-1])}
    for name in lacking:
        (models[name].path / "tokenizer.json").unlink()
    merged, _ = merge(AVERAGE, *models.values())
    assert torch.equal(merged[EMBEDDING], models["source"].read(EMBEDDING))
    with pytest.raises(CheckpointMismatchError, match="no tokenizer in"):
        merge(AVERAGE, *models.values(), folder="by_text", tokens="by_text")


def test_tokens_of_tensors_that_are_not_merged_need_not_agree(llama, merge):
    pivot, source = llama("pivot"), llama("source", WORDS[::-1])
    merged, _ = merge(AVERAGE, pivot, source, exclude=(EMBEDDING, HEAD))
    assert torch.equal(merged[EMBEDDING], pivot.read(EMBEDDING))
    with pytest.raises(CheckpointMismatchError, match="60 ids"):
        merge(AVERAGE, pivot, source, folder="half", exclude=(HEAD,))


def test_by_text_without_a_common_token_is_refused(llama, merge):
    pivot, source = llama("pivot"), llama("source", [f"other-{i}" for i in range(60)])
    with pytest.raises(CheckpointMismatchError, match="share no token; tokens=by_id"):
        merge(AVERAGE, pivot, source, tokens="by_text")


def test_tokenizers_that_are_not_understood_are_compared_by_their_bytes(llama, merge):
    pivot, source = llama("pivot"), llama("source")
    for model in (pivot, source):
        (model.path / "tokenizer.json").unlink()
        (model.path / "tokenizer.model").write_bytes(b"\n\x0esentencepiece")
    merge(AVERAGE, pivot, source)
    (source.path / "tokenizer.model").write_bytes(b"\n\x0fanother-piece")
    with pytest.raises(CheckpointMismatchError, match="tokenizers cannot be compared"):
        merge(AVERAGE, pivot, source, folder="second")


def test_messages_are_short_whatever_the_tokens(llama, merge):
    words = [f"{'long' * 2000}-{i}" for i in range(60)]
    pivot, source = llama("pivot", words), llama("source", words[::-1])
    with pytest.raises(CheckpointMismatchError) as caught:
        merge(AVERAGE, pivot, source)
    assert len(str(caught.value)) < 1200


def test_an_adapter_with_its_own_tokenizer_is_compared_by_it(llama, merge, tmp_path):
    pivot = llama("pivot")
    folder = write_adapter(pivot.path, pair())
    merge(AVERAGE, pivot, open_adapter(folder, root=tmp_path))
    add_tokenizer(folder, WORDS[::-1])
    with pytest.raises(CheckpointMismatchError, match="60 ids are of other tokens"):
        merge(AVERAGE, pivot, open_adapter(folder, root=tmp_path), folder="second")


def test_special_and_ordinary_spellings_of_a_token_are_matched():
    pivot = Vocabulary(ids={b"a": (0,), b"<x>": (1,)}, specials={"<s>": 2})
    source = Vocabulary(ids={b"<s>": (0,), b"a": (2,)}, specials={"<x>": 1})
    assert match_vocabularies(pivot, source).source_ids == {0: 2, 1: 1, 2: 0}


def test_byte_tokens_are_matched_with_byte_tokens():
    # ordinary tokens come first in ids: "A" is 5 and the byte 41 is 3
    pivot, source = (
        Vocabulary(ids={b"A": (5, 3)}, specials={}),
        Vocabulary(ids={b"A": (1, 2)}, specials={}),
    )
    match = match_vocabularies(pivot, source)
    assert match.source_ids == {5: 1, 3: 2}
    assert match.source_rows(6, 6).tolist() == [0, -1, -1, 2, 4, 1]
