"""DELLA: keep probabilities by rank, the formula with the same draws, mergekit."""

import numpy as np
import pytest
import torch
from mergekit.merge_methods.api import merge_tensors

from baselines.della import disjoint_mean, keep_probability, merge
from tests.in_memory import merge_models, merge_one, random_models


def della(pivot, *sources, density=0.5, epsilon=0.1, lam=1.0, **how):
    tensors = [torch.as_tensor(source) for source in sources]
    options = {"density": density, "epsilon": epsilon, "lam": lam}
    return merge_one(merge, torch.as_tensor(pivot), tensors, **options, **how)


def test_keep_probability_grows_with_the_rank_in_a_row():
    tv = torch.tensor([[3.0, -1.0, 2.0], [0.0, -9.0, 0.0]])
    expected = [[0.75, 0.25, 0.5], [0.25, 0.75, 0.5]]
    assert keep_probability(tv, 0.5, 0.25).tolist() == expected
    assert keep_probability(torch.tensor([[7.0]]), 0.5, 0.25).tolist() == [[0.5]]


def test_disjoint_mean_is_of_the_values_with_the_elected_sign():
    tv = [torch.tensor(row) for row in ([4.0, -1.0, 0.0], [2.0, -3.0, 0.0], [-1.0, 2.0, 0.0])]
    assert disjoint_mean(tv).tolist() == [3.0, -2.0, 0.0]


def test_survivors_are_divided_by_their_own_probability():
    pivot, sources = random_models((30, 40), n_sources=1)
    ratio = ((della(pivot, *sources).double() - pivot) / (sources[0].double() - pivot)).numpy()
    probability = keep_probability(sources[0] - pivot, 0.5, 0.1).numpy()
    kept = np.abs(ratio) > 0.5
    assert ratio[kept] == pytest.approx(1 / probability[kept], rel=1e-3)
    assert np.abs(ratio[~kept]).max() == 0


def test_share_kept_follows_the_probabilities():
    pivot, sources = torch.zeros(400, 1000), [torch.arange(1.0, 1001.0).repeat(400, 1)]
    kept = della(pivot, *sources, density=0.3, epsilon=0.2) != 0
    share = kept.view(400, 10, 100).double().mean(dim=(0, 2))
    expected = torch.linspace(0.12, 0.48, 10, dtype=torch.float64)  # 0.1 to 0.5, by tenths
    # a binomial of 40,000 has a standard deviation of at most 0.0025
    assert torch.allclose(share, expected, atol=0.0125, rtol=0)


def test_mean_over_many_draws_is_the_source():
    pivot, row = torch.zeros(4000, 50), torch.linspace(1.0, 2.0, 50)
    merged = della(pivot, row.repeat(4000, 1), density=0.5, epsilon=0.4)
    # at the least probability, 0.1, the standard deviation is 3 / sqrt(4000) = 0.05
    assert torch.allclose(merged.mean(dim=0), row, atol=0.25, rtol=0)


def test_everything_kept_agrees_with_mergekit():
    pivot, sources = random_models((30, 40))
    merged = della(pivot, *sources, density=1.0, epsilon=0.0, lam=1.1)
    parameters = {"density": 1.0, "weight": 1.0, "lambda": 1.1, "normalize": True}
    peer = merge_tensors([pivot, *sources], "della", parameters=parameters, base_index=0)
    assert torch.allclose(merged, peer, atol=1e-6, rtol=0)


def test_draws_depend_on_name_seed_and_source():
    pivot, source = torch.zeros(4, 50), torch.ones(4, 50)
    models = [{"a": pivot, "b": pivot}, {"a": source, "b": source}]
    options = {"density": 0.5, "epsilon": 0.1, "lam": 1.0}
    merged = merge_models(merge, *models, **options)
    assert not torch.equal(merged["a"], merged["b"])
    other = merge_models(merge, *models, seed=1, **options)
    assert not torch.equal(merged["a"], other["a"])
    assert not torch.equal(della(pivot, source, -source), torch.zeros(4, 50))


def test_rows_are_ranked_alike_however_many_there_are():
    # 700 rows of 300 columns are ranked in two pieces; rows are ranked one by one
    tv = torch.randn(700, 300, generator=torch.Generator().manual_seed(0))
    whole = keep_probability(tv, 0.5, 0.1)
    assert torch.equal(whole[650:], keep_probability(tv[650:], 0.5, 0.1))
    assert della(torch.zeros(700, 300), tv, density=1.0, epsilon=0.0).equal(tv)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"epsilon": -0.1}, r"epsilon must be in \[0, 1\], got -0.1"),
        ({"density": 0.1, "epsilon": 0.1}, "epsilon must be less than density .* got 0.1"),
        ({"density": 0.9, "epsilon": 0.2}, "epsilon must be less than density .* got 0.2"),
        ({"lam": None}, "lam must be a finite number, got None"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        della([0.0], [1.0], **bad)
