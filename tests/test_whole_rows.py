"""Methods that take whole rows: where blocks are cut, what is merged whole, memory."""

import math
from functools import partial

import pytest
import torch

from seme.interface import traits_of, whole_rows
from seme.whole_tensor import bytes_of_whole, row_length, whole_names
from tests.in_memory import merge_one


def columns(shape, /):
    return math.prod(shape[1:]) or 1


def groups(_shape, /, *, group):
    return group


@whole_rows(columns)
def centred(pivot, sources, site, /):
    """The source less the mean of each of its rows."""
    (source,) = sources
    rows = source.reshape(-1, site.row_length)
    return (rows - rows.mean(dim=1, keepdim=True)).view(pivot.shape)


@whole_rows(groups, per_source=3)
def grouped(pivot, _sources, site, /, *, group):
    assert site.row_length == group
    assert site.start % group == 0
    assert pivot.dim() == 1
    return torch.full_like(pivot, pivot.numel())


def test_declaration():
    traits = traits_of(grouped)
    assert (traits.row_length, traits.per_source, traits.temporaries) == (groups, 3, 0)
    assert not traits.whole_tensor
    assert row_length(partial(grouped, group=5), (3, 4)) == 5
    assert row_length(partial(centred), (3, 4, 2)) == 8


@pytest.mark.parametrize("block", [1, 6, 7, 20, 1000])
def test_blocks_hold_whole_rows_however_long(model, merge, monkeypatch, block):
    monkeypatch.setattr("seme.streaming.CPU_BLOCK", block)
    shapes = {"a": (5, 6), "b": (9, 2), "c": (1, 20), "d": (0, 4), "e": (2, 3, 4)}
    rng = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    pivot = model("p", {name: torch.zeros(shape) for name, shape in shapes.items()})
    merged, _ = merge(partial(centred), pivot, model("s", tensors))
    for name, values in tensors.items():
        rows = values.reshape(-1, columns(values.shape))
        expected = rows - rows.mean(dim=1, keepdim=True)
        assert torch.equal(merged[name], expected.view(values.shape)), name


def test_the_last_row_may_be_shorter(monkeypatch):
    monkeypatch.setattr("seme.streaming.CPU_BLOCK", 7)
    merged = merge_one(grouped, torch.zeros(16), [torch.zeros(16)], group=3)
    assert merged.tolist() == [6.0] * 12 + [4.0] * 4


def test_tensors_whose_rows_are_longer_than_a_block_are_merged_whole(monkeypatch):
    monkeypatch.setattr("seme.streaming.CPU_BLOCK", 10)
    method = partial(centred)
    shapes = {"long": (2, 11), "short": (3, 10)}
    assert whole_names(method, shapes) == ("long",)
    assert bytes_of_whole(22, 2, traits_of(grouped)) == 4 * 22 * (2 + 2 + 2 * 3)


def test_a_row_that_does_not_fit_the_budget_is_refused(model, merge):
    models = [model(name, {"w": torch.ones(2, 1 << 20)}) for name in "ps"]
    with pytest.raises(ValueError, match="the method merges whole tensors, and w takes 24MiB"):
        merge(partial(centred), *models, memory_budget=30 << 20)
