"""Consensus merging: votes of the task vectors, the formula in float64."""

import numpy as np
import pytest
import torch

from baselines.consensus import count_votes, merge
from tests.in_memory import merge_one, random_models


def consensus(pivot, *sources, threshold=0.5, min_votes=2, lam=1.0):
    tensors = [torch.as_tensor(source) for source in sources]
    options = {"threshold": threshold, "min_votes": min_votes, "lam": lam}
    return merge_one(merge, torch.as_tensor(pivot), tensors, **options)


def test_elements_with_too_few_votes_are_left_out():
    # others' sums beside [4, 4, 0]: [1, 3, 0]; beside [1, 3, 0]: [4, 4, 0]
    # the first votes for 4 > 0.5 and 4 > 1.5, the second for 3 > 2 only
    merged = consensus([1.0, 1.0, 1.0], [5.0, 5.0, 1.0], [2.0, 4.0, 1.0])
    assert merged.tolist() == [1.0, 8.0, 1.0]
    one_vote = consensus([1.0, 1.0, 1.0], [5.0, 5.0, 1.0], [2.0, 4.0, 1.0], min_votes=1)
    assert one_vote.tolist() == [6.0, 8.0, 1.0]


def test_votes_of_three_tasks():
    tv = torch.tensor([[3.0, 1.0, 0.0], [-2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).double()
    # others' sums: [-2, 1, 0], [3, 2, 0], [1, 1, 0]
    assert count_votes(tv, 0.5).tolist() == [2, 2, 0]


@pytest.mark.parametrize("n_sources", [2, 4])
@pytest.mark.parametrize("min_votes", [1, 2])
def test_merge_agrees_with_the_formula(n_sources, min_votes):
    pivot, sources = random_models((300, 500), n_sources)
    base = pivot.numpy().astype(np.float64)
    tv = np.stack([source.numpy().astype(np.float64) - base for source in sources])
    multi = tv.sum(axis=0)
    masks = np.abs(tv) > 0.2 * np.abs(multi - tv)
    expected = base + 0.4 * multi * (masks.sum(axis=0) >= min_votes)
    merged = consensus(pivot, *sources, threshold=0.2, min_votes=min_votes, lam=0.4)
    assert np.abs(merged.numpy() - expected).max() <= 2**-22  # one rounding, of numbers under 8
    share = np.mean(masks.sum(axis=0) >= min_votes)
    assert share == 1.0 if min_votes == 1 else 0.5 < share < 1.0


@pytest.mark.parametrize("n_sources", [2, 3, 9])
def test_compiled_loops_have_the_bits_of_torch(in_torch, n_sources):
    pivot, sources = random_models((70, 600), n_sources)
    pivot[:, ::5] = sources[1][:, ::5]
    compiled = consensus(pivot, *sources, threshold=0.3, lam=0.7)
    in_torch()
    in_steps = consensus(pivot, *sources, threshold=0.3, lam=0.7)
    assert torch.equal(compiled.view(torch.int32), in_steps.view(torch.int32))


def test_threshold_zero_keeps_what_two_sources_change():
    merged = consensus([0.0, 0.0], [1.0, 2.0], [1.0, 0.0], threshold=0.0)
    assert merged.tolist() == [2.0, 0.0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"threshold": -1.0}, "threshold must be a finite number of at least 0, got -1.0"),
        ({"min_votes": 0}, "min_votes must be a whole number of at least 1, got 0"),
        ({"min_votes": 3}, "min_votes must be at most the number of sources, 2, got 3"),
        ({"lam": "half"}, "lam must be a finite number, got 'half'"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        consensus([0.0], [1.0], [2.0], **bad)


def test_one_source_is_refused():
    with pytest.raises(ValueError, match="merges at least 2 sources into the pivot, got 1"):
        consensus([0.0], [1.0])
