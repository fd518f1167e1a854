"""Select-Compute-Erase: its steps, a naive loop, and where mergekit differs."""

import pytest
import torch
from mergekit.merge_methods.api import merge_tensors

from baselines.sce import merge
from seme.ranking_scores import RankingScores
from seme.sce import compute_coefficients, select_elements, variation
from seme.streaming import ThreadPool
from seme.topk_mask import KeepRule, TopKMask
from tests.in_memory import merge_one, models_of, random_models

OPTIONS = {"tau": 1.0, "lam": 1.0, "renormalize": False, "select": "deltas"}


def select_compute_erase(pivot, sources, **options):
    return merge_one(merge, pivot, sources, **OPTIONS | options)


def fuse(pivot, sources, **options):
    tensors = [torch.tensor(source) for source in sources]
    return select_compute_erase(torch.tensor(pivot), tensors, **options).tolist()


def opened(pivot, sources):
    return models_of({"w": pivot}, *({"w": source} for source in sources)).open("w")


def selected(pivot, sources, *, tau):
    kept = select_elements(opened(pivot, sources), tau=tau).at(pivot, sources, 0)
    return kept.squeeze(0).nonzero().flatten().tolist()


def coefficients(pivot, sources, *, tau):
    tensor = opened(pivot, sources)
    return compute_coefficients(tensor, select_elements(tensor, tau=tau))


def fuse_naively(pivot, sources, *, tau, renormalize, select):
    """Element by element in Python's floats, from SEME.md section 5."""
    pivot, sources = pivot.tolist(), [source.tolist() for source in sources]
    tv = [[s - p for s, p in zip(source, pivot, strict=True)] for source in sources]
    k, n = len(tv), len(pivot)
    columns = [[row[i] for row in tv] for i in range(n)]
    variance = [sum((d - sum(c) / k) ** 2 for d in c) / k for c in columns]
    ranked = sorted(range(n), key=lambda i: (-variance[i], i))[: round(tau * n)]
    chosen = {i for i in ranked if variance[i] > 0}
    energy = [sum(row[i] ** 2 for i in chosen) for row in tv]
    eta = [e / sum(energy) for e in energy] if sum(energy) else [1 / k] * k
    merged = []
    for i, column in enumerate(columns):
        used = column if i in chosen or select == "coefficients" else [0.0] * k
        kept = [j for j, d in enumerate(used) if d * sum(used) > 0]
        weight = sum(eta[j] for j in kept) if renormalize else 1.0
        change = sum(eta[j] * used[j] for j in kept)
        merged.append(pivot[i] + (change / weight if weight else 0.0))
    return merged


def test_selected_deltas_are_weighted_by_energy_and_minority_signs_erased():
    # deltas [4, 1, 0], [-2, 1, 2]: variances 9, 0, 1; tau 2/3 selects elements 0 and 2
    # energies 16 and 4 + 4 = 8: eta 2/3 and 1/3; the signs of the sums are + and +
    # element 0: the -2 is erased, 2/3 * 4; element 1 is not selected; element 2: 1/3 * 2
    merged = fuse([0.0, 0.0, 0.0], [[4.0, 1.0, 0.0], [-2.0, 1.0, 2.0]], tau=2 / 3)
    assert merged == pytest.approx([8 / 3, 0.0, 2 / 3])


def test_renormalize_divides_by_surviving_coefficients():
    # as above; each selected element has one survivor, which then counts in full
    sources = [[4.0, 1.0, 0.0], [-2.0, 1.0, 2.0]]
    assert fuse([0.0, 0.0, 0.0], sources, tau=2 / 3, renormalize=True) == [4.0, 0.0, 2.0]


def test_select_coefficients_merges_unselected_deltas():
    # as above, but element 1, outside the selection, is merged as well: 2/3 * 1 + 1/3 * 1
    sources = [[4.0, 1.0, 0.0], [-2.0, 1.0, 2.0]]
    merged = fuse([0.0, 0.0, 0.0], sources, tau=2 / 3, select="coefficients")
    assert merged == pytest.approx([8 / 3, 1.0, 2 / 3])


@pytest.mark.parametrize("select", ["deltas", "coefficients"])
@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("n_sources", [2, 3, 5])
def test_sce_equals_a_naive_loop(n_sources, tau, renormalize, select):
    pivot, sources = random_models(200, n_sources, seed=n_sources)
    options = {"tau": tau, "renormalize": renormalize, "select": select}
    merged = select_compute_erase(pivot, sources, **options)
    expected = fuse_naively(pivot, sources, **options)
    assert torch.equal(merged, torch.tensor(expected))


def test_elements_are_selected_by_variance_excluding_zero():
    pivot = torch.zeros(4)
    sources = [torch.tensor([9.0, 1.0, 0.0, 5.0]), torch.tensor([9.0, 2.0, 3.0, 1.0])]
    assert selected(pivot, sources, tau=0.5) == [2, 3]
    assert selected(pivot, sources, tau=1.0) == [1, 2, 3]


def test_single_source_is_selected_by_magnitude():
    assert selected(torch.zeros(3), [torch.tensor([1.0, -3.0, 2.0])], tau=1 / 3) == [1]


@pytest.mark.parametrize("exponent", [-90, -20, 24])
@pytest.mark.parametrize("n_sources", [2, 3, 5])
def test_variation_orders_as_variance_at_any_scale(n_sources, exponent):
    rng = torch.Generator().manual_seed(0)
    sources = [torch.randn(300, generator=rng) * 2.0**exponent for _ in range(n_sources)]
    variance = torch.stack(sources).double().var(dim=0, correction=0)
    order = variation(torch.zeros(300), sources).squeeze(0).abs().argsort()
    assert torch.equal(order, variance.argsort())


def test_deltas_with_underflowing_squares_are_ranked_and_weighted():
    tiny = 2.0**-100
    sources = [torch.tensor([1.0, 2.0, 0.0]) * tiny, torch.tensor([0.0, 0.0, 3.0]) * tiny]
    assert selected(torch.zeros(3), sources, tau=2 / 3) == [1, 2]
    n_selected, eta = coefficients(torch.zeros(3), sources, tau=2 / 3)
    assert (n_selected, eta) == (2, pytest.approx((4 / 13, 9 / 13)))


def test_coefficients_are_equal_if_every_energy_is_zero():
    sources = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]
    tensor = opened(torch.zeros(2), sources)
    nothing = TopKMask(RankingScores(tensor, variation, 1), [KeepRule(threshold=9.0, cutoff=0)])
    assert compute_coefficients(tensor, nothing) == (0, (0.5, 0.5))


def test_one_fully_selected_source_is_returned_bit_identical():
    pivot, sources = random_models(5000, 1)
    merged = select_compute_erase(
        pivot, sources, tau=1.0, lam=1.0, renormalize=False, select="deltas"
    )
    assert torch.equal(merged, sources[0])


def test_model_merged_with_itself_keeps_signed_zeros():
    pivot = torch.tensor([-0.0, 0.0, 0.3, -1e-30])
    merged = select_compute_erase(
        pivot, [pivot, pivot], tau=1.0, lam=1.0, renormalize=True, select="deltas"
    )
    assert torch.equal(merged.view(torch.int32), pivot.view(torch.int32))


def test_equal_sources_return_the_pivot():
    assert fuse([1.0, 2.0], [[3.1, 4.7], [3.1, 4.7], [3.1, 4.7]]) == [1.0, 2.0]


def test_equal_sources_are_returned_with_select_coefficients():
    assert fuse([1.0, 2.0], [[3.0, 4.0], [3.0, 4.0]], select="coefficients") == [3.0, 4.0]


def test_lam_scales_the_change_and_zero_returns_the_pivot():
    sources = [[4.0, 1.0], [-2.0, 3.0]]
    whole, half, none = (fuse([1.0, 1.0], sources, lam=lam) for lam in (1.0, 0.5, 0.0))
    assert none == [1.0, 1.0]
    assert [h - 1 for h in half] == pytest.approx([(w - 1) / 2 for w in whole])


def test_cancelling_deltas_are_erased():
    assert fuse([5.0], [[7.0], [3.0]]) == [5.0]
    assert fuse([5.0], [[7.0], [3.0]], renormalize=True) == [5.0]


@pytest.mark.parametrize("blocks_per_read", [1, 3])
def test_result_does_not_depend_on_threads_or_blocks_per_read(blocks_per_read):
    pivot, sources = random_models(700_000, 3)
    alone = select_compute_erase(pivot, sources, tau=0.3)
    with ThreadPool(3) as threads:
        how = {"threads": threads, "blocks_per_read": blocks_per_read}
        together = select_compute_erase(pivot, sources, tau=0.3, how=how)
    assert torch.equal(alone, together)


def test_transposed_view_equals_its_copy():
    pivot, source = torch.arange(6.0).view(2, 3), torch.arange(6.0).view(3, 2).T
    options = {"tau": 0.5, "lam": 1.0, "renormalize": False, "select": "deltas"}
    merged = select_compute_erase(pivot, [source], **options)
    assert torch.equal(merged, select_compute_erase(pivot, [source.contiguous()], **options))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"tau": 0.0}, r"tau must be in \(0, 1\], got 0.0"),
        ({"tau": 1.5}, r"tau must be in \(0, 1\], got 1.5"),
        ({"tau": float("nan")}, r"tau must be in \(0, 1\], got nan"),
        ({"tau": "abc"}, r"tau must be in \(0, 1\], got 'abc'"),
        ({"lam": float("inf")}, "lam must be a finite number, got inf"),
        ({"select": "delta"}, "select must be one of coefficients, deltas, got 'delta'"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        fuse([0.0], [[1.0]], **bad)


FUSECHAT = {"lam": 1.0, "renormalize": True, "select": "deltas"}


def mergekit_sce(pivot, sources, *, tau):
    parameters = {"select_topk": tau}
    return merge_tensors([pivot, *sources], "sce", parameters=parameters, base_index=0)


def models_of_scale(scale):
    torch.manual_seed(0)
    pivot = torch.randn(20, 30)
    scales = (scale, 2 * scale, 3 * scale)
    return pivot, [pivot + s * torch.randn(20, 30) for s in scales]


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0])
def test_renormalised_sce_agrees_with_mergekit(tau):
    pivot, sources = models_of_scale(scale=0.1)
    merged = merge_one(merge, pivot, sources, tau=tau, **FUSECHAT)
    assert torch.allclose(merged, mergekit_sce(pivot, sources, tau=tau), rtol=0, atol=1e-6)


def test_mergekit_uses_equal_weights_for_small_deltas():
    # sum of mean squares (1 + 4 + 9) * 1e-8 is below mergekit's 1e-6; SCE keeps the energies
    pivot, sources = models_of_scale(scale=1e-4)
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


@pytest.mark.usefixtures("code_path")
def test_tau_all_masks_nothing_as_mergekit_at_one():
    # energies 1 + 4 and 1 + 16 of all elements: eta 5/22 and 17/22, where tau 1 has 1/5 and 4/5
    pivot = torch.zeros(2)
    sources = [torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])]
    merged = merge_one(merge, pivot, sources, tau="all", **FUSECHAT)
    assert merged.tolist() == pytest.approx([1.0, (5 * 2 + 17 * 4) / 22])
    assert torch.allclose(merged, mergekit_sce(pivot, sources, tau=1.0), rtol=0, atol=1e-6)
    pivot, sources = models_of_scale(scale=0.1)
    for source in sources[1:]:
        source[:10] = sources[0][:10]
    merged = merge_one(merge, pivot, sources, tau="all", **FUSECHAT)
    assert torch.allclose(merged, mergekit_sce(pivot, sources, tau=1.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("renormalize", [False, True])
def test_tau_all_returns_equal_sources(renormalize):
    sources = [[3.0, 4.0, 2.0], [3.0, 4.0, 2.0]]
    assert fuse([1.0, 2.0, 2.0], sources, tau="all", renormalize=renormalize) == sources[0]


def test_select_coefficients_selects_of_all_elements():
    # 10 elements, 4 vary: tau 0.5 selects all 4 for the coefficients, FuseChat int(0.5 * 4) = 2
    pivot = torch.zeros(10)
    sources = [torch.tensor([4.0, 3.0, 2.0, 1.0] + [0.0] * 6), torch.zeros(10)]
    sources[1][3] = 3.0
    assert coefficients(pivot, sources, tau=0.5)[1] == pytest.approx((30 / 39, 9 / 39))
    two_largest = coefficients(pivot, sources, tau=0.2)[1]
    assert two_largest == pytest.approx((1.0, 0.0))


def test_single_source_is_ranked_by_magnitude_unlike_mergekit():
    pivot, source = torch.zeros(4), torch.tensor([1.0, -3.0, 2.0, 0.5])
    merged = merge_one(merge, pivot, [source], tau=0.5, **FUSECHAT)
    assert merged.tolist() == [0.0, -3.0, 2.0, 0.0]
    assert mergekit_sce(pivot, [source], tau=0.5).tolist() == [0.0] * 4
