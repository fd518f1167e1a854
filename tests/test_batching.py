"""Rows per batch: fixed, by tokens, by memory."""

from types import SimpleNamespace

import pytest
import torch

from eval import batching
from eval.batching import BatchSize, batch_size_of


@pytest.mark.parametrize(
    ("size", "longest", "rows"),
    [
        (BatchSize(rows=16, tokens=None), 1000, 16),
        (BatchSize(rows=None, tokens=512), 100, 5),
        (BatchSize(rows=None, tokens=512), 513, 1),
        (BatchSize(rows=64, tokens=512), 2, 64),
        (BatchSize(rows=64, tokens=512), 100, 5),
    ],
)
def test_rows_fit_the_tokens_and_are_at_least_one(size, longest, rows):
    assert size.rows_of(longest) == rows


def test_halved_size_has_half_the_rows_of_that_length():
    assert BatchSize(rows=5, tokens=None).halved(9).rows_of(9) == 2
    by_tokens = BatchSize(rows=None, tokens=512).halved(100)
    assert (by_tokens.rows_of(100), by_tokens.rows_of(50)) == (2, 4)


def test_lengths_within_a_class_differ_by_less_than_twice():
    lengths = [3, 10, 6, 5, 1]
    assert BatchSize(rows=None, tokens=20).classes(lengths) == [[1, 2], [3, 0], [4]]
    assert BatchSize(rows=4, tokens=None).classes(lengths) == [[0, 1, 2, 3, 4]]
    assert BatchSize(rows=4, tokens=None).classes([]) == []


def test_auto_takes_half_of_the_free_memory(monkeypatch):
    config = SimpleNamespace(vocab_size=1000, hidden_size=100, num_hidden_layers=2)
    model = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: config),
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
    )
    free = SimpleNamespace(available=100_000)
    monkeypatch.setattr(batching.psutil, "virtual_memory", lambda: free)
    # a token: 2 bytes x (3 x 1000 logits + 100 x (2 x 2 keys and values + 16 activations))
    assert batch_size_of("auto", model) == BatchSize(rows=64, tokens=50_000 // 10_000)
    assert batch_size_of("300 tokens", model) == BatchSize(rows=None, tokens=300)
    assert batch_size_of(8, model) == BatchSize(rows=8, tokens=None)
