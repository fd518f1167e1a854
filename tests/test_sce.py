import pytest
import torch
from mergekit.merge_methods.api import merge_tensors

from baselines.sce import merge
from tests.in_memory import merge_one

FUSECHAT = {"lam": 1.0, "renormalize": True, "select": "deltas"}


def mergekit_sce(pivot, sources, *, tau):
    parameters = {"select_topk": tau}
    return merge_tensors([pivot, *sources], "sce", parameters=parameters, base_index=0)


def random_models(scale):
    torch.manual_seed(0)
    pivot = torch.randn(20, 30)
    scales = (scale, 2 * scale, 3 * scale)
    return pivot, [pivot + s * torch.randn(20, 30) for s in scales]


def test_sce_parameters_control_the_steps():
    # deltas [4, 1], [-2, 0]: tau 1/2 selects element 0; energies 16 and 4; the -2 is erased
    pivot, sources = torch.ones(2), [torch.tensor([5.0, 2.0]), torch.tensor([-1.0, 1.0])]
    paper = {"tau": 0.5, "lam": 1.0, "renormalize": False, "select": "deltas"}

    def sce(**changed):
        return merge_one(merge, pivot, sources, **{**paper, **changed}).tolist()

    assert sce() == pytest.approx([1 + 0.8 * 4, 1.0])
    assert sce(lam=0.5) == pytest.approx([1 + 0.4 * 4, 1.0])
    assert sce(renormalize=True) == [5.0, 1.0]
    assert sce(select="coefficients") == pytest.approx([1 + 0.8 * 4, 1 + 0.8 * 1])
    assert sce(tau=1.0) == pytest.approx([1 + 17 / 21 * 4, 1 + 17 / 21 * 1])


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0])
def test_renormalised_sce_agrees_with_mergekit(tau):
    pivot, sources = random_models(scale=0.1)
    merged = merge_one(merge, pivot, sources, tau=tau, **FUSECHAT)
    assert torch.allclose(merged, mergekit_sce(pivot, sources, tau=tau), rtol=0, atol=1e-6)


def test_mergekit_uses_equal_weights_for_small_deltas():
    # sum of mean squares (1 + 4 + 9) * 1e-8 is below mergekit's 1e-6; SCE here keeps the energies
    pivot, sources = random_models(scale=1e-4)
    pivot, sources = torch.zeros(20, 30), [source - pivot for source in sources]
    merged = merge_one(merge, pivot, sources, tau=1.0, **FUSECHAT)
    mergekit_merged = mergekit_sce(pivot, sources, tau=1.0)
    scaled_up = mergekit_sce(pivot, [1000 * source for source in sources], tau=1.0) / 1000
    assert torch.allclose(merged, scaled_up, rtol=1e-4, atol=0)
    assert (merged - mergekit_merged).norm() > 0.05 * merged.norm()


def test_tau_counts_all_elements_and_mergekit_only_varying_ones():
    # 10 elements, 4 vary: tau 0.5 selects 4 of them, in mergekit 2
    pivot = torch.zeros(10)
    source = torch.tensor([4.0, 3.0, 2.0, 1.0] + [0.0] * 6)
    merged = merge_one(merge, pivot, [source, pivot], tau=0.5, **FUSECHAT)
    mergekit_merged = mergekit_sce(pivot, [source, pivot], tau=0.5)
    assert (merged.count_nonzero(), mergekit_merged.count_nonzero()) == (4, 2)


def test_sce_drops_shared_deltas_at_tau_one_unlike_mergekit():
    pivot = torch.zeros(2)
    sources = [torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])]
    merged = merge_one(merge, pivot, sources, tau=1.0, **FUSECHAT)
    assert merged.tolist() == pytest.approx([0.0, 0.2 * 2 + 0.8 * 4])
    assert mergekit_sce(pivot, sources, tau=1.0)[0] == pytest.approx(1.0)


def test_single_source_is_ranked_by_magnitude_unlike_mergekit():
    pivot, source = torch.zeros(4), torch.tensor([1.0, -3.0, 2.0, 0.5])
    merged = merge_one(merge, pivot, [source], tau=0.5, **FUSECHAT)
    assert merged.tolist() == [0.0, -3.0, 2.0, 0.0]
    assert mergekit_sce(pivot, [source], tau=0.5).tolist() == [0.0] * 4


@pytest.mark.parametrize("tau", [0.0, -0.1, 1.5])
def test_tau_outside_the_unit_interval_is_named(tau):
    with pytest.raises(ValueError, match=rf"tau must be in \(0, 1\], got {tau}"):
        merge_one(merge, torch.zeros(1), [torch.ones(1)], tau=tau, **FUSECHAT)
