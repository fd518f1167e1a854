"""Sources with more or fewer embedding rows than the pivot."""

import functools
import json
import logging

import pytest
import torch
from safetensors.torch import load_file

from baselines.average import merge as average
from baselines.ties import merge as ties
from seme.checkpoint.lora import open_adapter
from seme.checkpoint.reader import open_checkpoint
from seme.embedding_rows import FittedSource, fit_rows, row_differences
from seme.interface import CheckpointMismatchError
from tests.adapters import pair, write_adapter
from tests.tiny_models import save_tiny

AVERAGE = functools.partial(average, weights=None)
TIES = functools.partial(ties, density=0.5, lam=1.0, scope="model", trim_ties="exact")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def add_tokenizer(folder, tokens):
    """Write a tokenizer of these tokens, by id."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    added = [{"content": "<pad>", "id": len(tokens), "special": True}]
    content = {"model": {"type": "WordLevel", "vocab": vocabulary}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.fixture
def llama(tmp_path, make_llama):
    """A tiny Llama of some rows: ``llama("pivot", 64)``; its tokenizer has 63 words."""

    def make(name, rows, *, tokens="token-{}", **options):
        folder = make_llama(tmp_path / name, sum(map(ord, name)), vocab_size=rows, **options)
        add_tokenizer(folder, [tokens.format(i) for i in range(63)])
        return open_checkpoint(folder, root=tmp_path)

    return make


def test_extra_rows_are_left_out_and_common_ones_merged(llama, merge, caplog):
    pivot, more = llama("pivot", 64), llama("more", 72)
    with caplog.at_level(logging.WARNING, "seme"):
        merged, report = merge(AVERAGE, pivot, more)
    for name in (EMBEDDING, HEAD):
        assert torch.equal(merged[name], more.read(name)[:64])
        line = (
            f"source 0 ({more.path}): {name} has 72 rows, the pivot 64: the first 64 are "
            "merged, the source's other 8 left out"
        )
        assert line in report.warnings
        assert line in caplog.messages
    assert report.bytes_read == 2 * report.bytes_written  # the other rows are not read


def test_rows_that_a_source_lacks_stay_the_pivots(llama, merge):
    pivot, less, same = llama("pivot", 64), llama("less", 56), llama("same", 64)
    merged, report = merge(AVERAGE, pivot, less)
    assert torch.equal(merged[EMBEDDING][:56], less.read(EMBEDDING))
    assert torch.equal(merged[EMBEDDING][56:], pivot.read(EMBEDDING)[56:])
    assert "leaves the pivot's other 8 as they are" in report.warnings[0]
    merged, _ = merge(AVERAGE, pivot, less, same, folder="two")
    assert torch.allclose(
        merged[HEAD][56:], (pivot.read(HEAD) + same.read(HEAD))[56:] / 2, atol=1e-7
    )


def test_missing_rows_are_no_change_for_ties(llama, merge):
    pivot, less = llama("pivot", 64), llama("less", 56)
    merged, _ = merge(TIES, pivot, less)
    assert torch.equal(merged[EMBEDDING][56:], pivot.read(EMBEDDING)[56:])
    assert not torch.equal(merged[EMBEDDING][:56], pivot.read(EMBEDDING)[:56])


def test_rows_of_two_dtypes_come_together_in_float32(llama, merge):
    pivot, less = llama("pivot", 64), llama("less", 56, dtype=torch.bfloat16)
    fitted = fit_rows(pivot, less)
    assert fitted.dtype(EMBEDDING) == torch.float32
    assert torch.equal(fitted.read(EMBEDDING)[:56], less.read(EMBEDDING).float())
    assert torch.equal(fitted.opened(EMBEDDING).read(50 * 16, 60 * 16)[96:],
                       pivot.read(EMBEDDING)[56:60].flatten())  # fmt: skip
    merged, _ = merge(AVERAGE, pivot, less)
    assert torch.equal(merged[EMBEDDING][56:], pivot.read(EMBEDDING)[56:])


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt_neox", "gpt2"])
def test_padded_vocabulary_of_an_architecture(model_type, tmp_path, merge):
    models = []
    for seed, rows in ((0, 160), (1, 192)):
        folder = save_tiny(tmp_path / f"{rows}", model_type, seed=seed, vocab_size=rows)
        add_tokenizer(folder, [f"token-{i}" for i in range(150)])
        models.append(open_checkpoint(folder, root=tmp_path))
    merged, report = merge(AVERAGE, *models)
    (name,) = {n for n in merged if n.endswith(("embed_tokens.weight", "in.weight", "wte.weight"))
               and "ln" not in n and "norm" not in n}  # fmt: skip
    assert torch.equal(merged[name], models[1].read(name)[:160])
    assert any(f"{name} has 192 rows, the pivot 160" in line for line in report.warnings)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["vocab_size"] == 160


def test_adapter_on_a_base_of_other_rows(llama, tmp_path, merge):
    pivot, more = llama("pivot", 64), llama("more", 72)
    adapter = open_adapter(write_adapter(more.path, pair()), root=tmp_path)
    merged, report = merge(AVERAGE, pivot, adapter)
    assert torch.equal(merged[EMBEDDING], more.read(EMBEDDING)[:64])
    assert "has 72 rows" in report.warnings[0]


def test_equal_rows_are_returned_as_they_are(llama):
    pivot, same = llama("pivot", 64), llama("same", 64)
    assert fit_rows(pivot, same) is same
    assert row_differences(0, same) == []


def test_other_tokens_are_refused_with_the_first_ids(llama, merge):
    pivot, other = llama("pivot", 64), llama("other", 72, tokens="other-{}")
    message = (
        r"source 0 .* another tokenizer than the pivot: 63 ids are of other tokens: id 0 is "
        r"'token-0' in the pivot and 'other-0' in the source, 1 is .*exclude="
    )
    with pytest.raises(CheckpointMismatchError, match=message):
        merge(AVERAGE, pivot, other)
    merged, _ = merge(AVERAGE, pivot, other, exclude=("*embed_tokens*", "lm_head*"))
    assert torch.equal(merged[EMBEDDING], pivot.read(EMBEDDING))


def test_absent_tokenizer_is_refused_where_rows_differ(llama, merge):
    pivot, more = llama("pivot", 64), llama("more", 72)
    (more.path / "tokenizer.json").unlink()
    message = r"tokenizers cannot be compared: no tokenizer in .* tokens=by_id merges"
    with pytest.raises(CheckpointMismatchError, match=message):
        merge(AVERAGE, pivot, more)
    merged, report = merge(AVERAGE, pivot, more, tokens="by_id")
    assert torch.equal(merged[EMBEDDING], more.read(EMBEDDING)[:64])
    assert any("the tokenizers could not be compared" in line for line in report.warnings)


def test_other_widths_are_left_to_the_comparison_of_shapes(llama, merge):
    pivot, wide = llama("pivot", 64), llama("wide", 72, hidden_size=32)
    assert not isinstance(fit_rows(pivot, wide), FittedSource)
    with pytest.raises(CheckpointMismatchError, match="does not fit the pivot"):
        merge(AVERAGE, pivot, wide)


def test_merged_model_of_padded_sources_is_whole(llama, merge, tmp_path):
    pivot, more, less = llama("pivot", 64), llama("more", 72), llama("less", 56)
    merge(TIES, pivot, more, less)
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert {n: tuple(t.shape) for n, t in written.items()} == {
        n: pivot.shape(n) for n in pivot.names
    }
