import pytest
import torch
from mergekit.merge_methods.api import merge_tensors
from peft.utils import merge_utils

from baselines import dare_ties, task_arithmetic
from baselines.dare import check, merge
from seme.interface import Site
from tests.in_memory import random_models

SITE = Site(name="w", seed=3)


def dare(pivot, sources, *, site=SITE, density=0.5, lam=1.0, weights=None):
    return merge(pivot, sources, site, density=density, lam=lam, weights=weights)


def with_ties(pivot, sources, *, site=SITE, density=0.5, lam=1.0):
    return dare_ties.merge(pivot, sources, site, density=density, lam=lam)


def masks(n_sources, shape, density, site=SITE):
    return site.bernoulli_mask(n_sources, shape, density)


def test_survivors_are_rescaled_by_the_density_and_others_dropped():
    # a task vector of ones at density 1/4: every survivor is 4
    merged = dare(torch.zeros(1000), [torch.ones(1000)], density=0.25)
    assert set(merged.tolist()) == {0.0, 4.0}
    assert torch.equal(merged > 0, masks(1, (1000,), 0.25)[0])


def test_dare_keeps_the_density_and_the_expected_mean():
    merged = dare(torch.zeros(100_000), [torch.ones(100_000)], density=0.1)
    assert (merged > 0).float().mean().item() == pytest.approx(0.1, abs=0.004)
    assert merged.mean().item() == pytest.approx(1.0, abs=0.04)


def test_sparse_task_vectors_are_weighted_summed_and_scaled():
    ones = torch.ones(8)
    first, second = masks(2, (8,), 0.5)
    merged = dare(ones, [2 * ones, 4 * ones], lam=0.5, weights=[1.0, -2.0])
    # task vectors 1 and 3 doubled, times weights 1 and -2, times lam: +1 and -6
    assert merged.tolist() == (1 + 1.0 * first - 6.0 * second).tolist()
    assert 0 < first.sum() < 8


@pytest.mark.parametrize("method", [dare, with_ties])
def test_masks_do_not_depend_on_the_order_of_tensors(method):
    pivot, sources = random_models()
    sites = [Site(name=name, seed=1) for name in ("a", "b")]
    forwards = [method(pivot, sources, site=site) for site in sites]
    backwards = [method(pivot, sources, site=site) for site in reversed(sites)]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards[::-1], strict=True))
    assert not torch.equal(forwards[0], forwards[1])


def test_seed_and_source_index_change_the_mask():
    pivot, sources = random_models(n_sources=1)
    reseeded = dare(pivot, sources, site=Site(name="w", seed=4))
    assert not torch.equal(dare(pivot, sources), reseeded)
    first, second = masks(2, (1000,), 0.5)
    assert (first == second).float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_dare_with_density_one_is_task_arithmetic():
    pivot, sources = random_models()
    expected = task_arithmetic.merge(pivot, sources, SITE, lam=0.4, weights=None)
    assert torch.equal(dare(pivot, sources, density=1.0, lam=0.4), expected)
    assert torch.equal(dare(pivot, sources[:1], density=1.0), sources[0])


def test_dare_agrees_with_peft_given_the_same_masks(monkeypatch):
    pivot, sources = random_models()
    tv = [source - pivot for source in sources]
    drawn = iter([*masks(3, pivot.shape, 0.3)] * 2)
    monkeypatch.setattr(torch, "bernoulli", lambda _: next(drawn).float())
    linear = pivot + merge_utils.dare_linear(tv, torch.ones(3), 0.3)
    ties = pivot + merge_utils.dare_ties(tv, torch.ones(3), 0.3)
    assert torch.allclose(dare(pivot, sources, density=0.3), linear, atol=1e-6)
    assert torch.allclose(with_ties(pivot, sources, density=0.3), ties, atol=1e-6)


def test_mergekit_dare_restores_the_l1_norm_instead(monkeypatch):
    pivot, sources = torch.zeros(4), [torch.tensor([1.0, 1.0, 1.0, 5.0])]
    survives = torch.tensor([1.0, 1.0, 0.0, 0.0])
    monkeypatch.setattr(torch, "bernoulli", lambda _: survives)
    monkeypatch.setattr(Site, "bernoulli_mask", lambda *_: survives.bool().unsqueeze(0))
    parameters = {"weight": 1.0, "density": 0.5, "rescale": True, "normalize": False}
    mergekit_merged = merge_tensors(
        [pivot, *sources], "dare_linear", parameters=parameters, base_index=0
    )
    # the L1 norm is 8, two ones survive: times 4; the paper's rescaling is times 1 / 0.5
    assert mergekit_merged.tolist() == [4.0, 4.0, 0.0, 0.0]
    assert dare(pivot, sources, density=0.5).tolist() == [2.0, 2.0, 0.0, 0.0]


def test_dare_ties_averages_survivors_of_the_elected_sign(monkeypatch):
    # survivors, doubled: [8, 0], [4, -6], [-2, 4]; elected signs [+, -]
    keeps = torch.tensor([[True, False], [True, True], [True, True]])
    monkeypatch.setattr(Site, "bernoulli_mask", lambda *_: keeps)
    sources = [torch.tensor(tv) for tv in ([4.0, -1.0], [2.0, -3.0], [-1.0, 2.0])]
    assert with_ties(torch.zeros(2), sources).tolist() == [6.0, -6.0]
    assert with_ties(torch.zeros(2), sources, lam=0.5).tolist() == [3.0, -3.0]


def test_dare_ties_does_not_trim_after_the_drop():
    merged = with_ties(torch.zeros(1000), [torch.arange(1.0, 1001.0)], density=0.5)
    assert torch.equal(merged != 0, masks(1, (1000,), 0.5)[0])


def test_dare_ties_with_density_one_returns_one_source_bit_identical():
    pivot, sources = random_models(n_sources=1)
    assert torch.equal(with_ties(pivot, sources, density=1.0), sources[0])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"density": 1.5}, r"density must be in \(0, 1\], got 1.5"),
        ({"lam": float("inf")}, "lam must be a finite number, got inf"),
        ({"weights": [1.0, 1.0]}, "expected 1, got 2"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    good = {"density": 0.5, "lam": 1.0, "weights": None, "n_sources": 1}
    with pytest.raises(ValueError, match=message):
        check(**good | bad)
    if "weights" not in bad:
        with pytest.raises(ValueError, match=message):
            dare_ties.check(**{"density": 0.5, "lam": 1.0} | bad)


def test_mask_does_not_depend_on_blocks_or_source_count():
    whole = SITE.bernoulli_mask(2, (1001,), 0.3)
    for start in (1, 2, 500, 999):
        part = Site(name="w", seed=3, start=start).bernoulli_mask(2, (1001 - start,), 0.3)
        assert torch.equal(part, whole[:, start:])
    assert torch.equal(
        SITE.bernoulli_mask(5, (7, 11, 13), 0.3)[:2].flatten(1), whole[:, : 7 * 11 * 13]
    )


@pytest.mark.parametrize("other", [Site(name="w", seed=4), Site(name="v", seed=3)])
def test_masks_of_seeds_tensors_and_sources_are_independent(other):
    n = 200_000
    first, second = SITE.bernoulli_mask(2, (n,), 0.3)
    (third,) = other.bernoulli_mask(1, (n,), 0.3)
    for one, two in ((first, second), (first, third), (first[1:], first[:-1])):
        both = (one & two).float().mean().item()
        assert both == pytest.approx(0.09, abs=5 * (0.09 * 0.91 / n) ** 0.5)
