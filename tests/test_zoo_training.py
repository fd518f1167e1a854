"""Tokenizers, batches of windows and the training loop."""

from itertools import islice

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from scripts.zoo.training import (
    END_OF_TEXT,
    batches,
    fresh_model,
    save_model,
    tokenize,
    train,
    train_tokenizer,
)
from tests.zoo_models import SHAPE, trained


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat and the dog " * 20, "12 + 34 = 46\n" * 20], 300)


@pytest.mark.parametrize(
    "text", ["the cat\n", "  Zwölf «chats» 🐈\t", "a  b\n\n    return x", "17 € 8"]
)
def test_tokenizer_round_trips_text(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_are_single_tokens(tokenizer):
    assert len(tokenizer) <= 300
    assert tokenizer.tokenize("2024=1212") == ["2", "0", "2", "4", "=", "1", "2", "1", "2"]


def test_token_stream_has_end_of_text_after_every_text(tokenizer):
    stream = tokenize(tokenizer, ["the cat", "the"])
    assert stream.dtype == np.uint16
    assert tokenizer.decode(stream) == f"the cat{END_OF_TEXT}the{END_OF_TEXT}"
    assert stream[-1] == tokenizer.eos_token_id == 0


STREAMS = {"a": np.arange(100, dtype=np.uint16), "b": np.arange(200, 1000, dtype=np.uint16)}


def test_a_window_is_consecutive_tokens_of_one_domain():
    batch = next(batches(STREAMS, {"a": 1, "b": 1}, rows=64, length=8, seed=0))
    assert batch.shape == (64, 8)
    assert (batch[:, 1:] - batch[:, :-1] == 1).all()
    assert not ((batch[:, 0] < 100) & (batch[:, -1] >= 100)).any()


def test_batches_depend_on_the_seed_not_on_mix_order():
    def three(mix, seed):
        return [
            b.tolist() for b in islice(batches(STREAMS, mix, rows=4, length=8, seed=seed), 3)
        ]

    drawn = three({"a": 1, "b": 3}, 5)
    assert drawn == three({"b": 3, "a": 1}, 5) != three({"a": 1, "b": 3}, 6)
    assert drawn[0] != drawn[1]


def test_domains_are_sampled_by_mix_shares():
    batch = next(batches(STREAMS, {"a": 1, "b": 3}, rows=4000, length=2, seed=0))
    assert (batch[:, 0] < 100).float().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    """The same numbers with and without a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_loss_falls_in_thirty_steps():
    _, losses = trained(30)
    assert list(losses) == list(range(1, 31))
    assert losses[1] == pytest.approx(np.log(32), abs=0.15)
    assert losses[30] < 1.5


def test_trained_weights_depend_on_the_seed():
    first, again, other = trained(3)[0], trained(3)[0], trained(3, seed=1)[0]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_learning_rate_is_zero_only_at_the_last_step():
    model, after = fresh_model(SHAPE, 32, 0), []
    before = model.lm_head.weight.detach().clone()
    train(
        model,
        batches(
            {"a": np.arange(320, dtype=np.uint16) % 32}, {"a": 1}, rows=4, length=16, seed=0
        ),
        steps=2,
        learning_rate=0.02,
        on_step=lambda *_: after.append(model.lm_head.weight.detach().clone()),
    )
    assert not torch.equal(before, after[0])
    assert torch.equal(after[0], after[1])


def test_fresh_model_has_the_given_shape_and_untied_embeddings():
    model = fresh_model(SHAPE, 40, 0)
    assert model.lm_head.weight.shape == (40, 16)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert model.config.num_hidden_layers == 1


def test_saved_model_is_bfloat16(tmp_path):
    model = fresh_model(SHAPE, 40, 0)
    expected = model.lm_head.weight.detach().clone().bfloat16()
    save_model(model, tmp_path)
    read = LlamaForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert read.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(read.lm_head.weight, expected)
