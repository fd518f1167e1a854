"""Top-k masks: shares, ties, zeros, cuts into tensors; an oracle that sorts."""

import math

import pytest
import torch

from seme.budget import cached_bytes
from seme.ranking_scores import RankingScores
from seme.streaming import CPU_BLOCK, ThreadPool
from seme.topk_mask import KeepRule, TopKMask, select_largest, survivors
from tests.in_memory import models_of


def select(columns_by_name, share, trim_ties="exact", **how):
    """Select over named tuples of tensors, one column each; the pivot is zero.

    Scores are cached in one selection and read anew in another: they must agree.
    """
    n_columns = len(next(iter(columns_by_name.values())))
    pivot = {name: torch.zeros_like(tensors[0]) for name, tensors in columns_by_name.items()}
    columns = [
        {n: tensors[i] for n, tensors in columns_by_name.items()} for i in range(n_columns)
    ]
    selections = []
    for cache in (0, 2**30):
        models = models_of(pivot, *columns, cache_bytes=cache, **how)
        ranked = [RankingScores(models.open(name), source_values, n_columns) for name in pivot]
        assert all(c.cached == bool(cache) for c in ranked if c.numel)
        selections.append(select_largest(ranked, share, trim_ties))
    assert selections[0] == selections[1]
    return selections[0]


def source_values(_pivot, sources):
    return torch.stack(sources)


def rule_for(values, share, trim_ties="exact", **how):
    (selection,) = select({"w": (values,)}, share, trim_ties, **how)
    return selection.rules["w"]


def kept(rule, values, start=0):
    """Which elements survive."""
    return survivors([rule], values.reshape(1, -1), start).view(values.shape)


def selected(values, share):
    values = torch.tensor(values)
    return kept(rule_for(values, share), values).int().tolist()


def by_sorting(values, share):
    """Naive oracle: a stable sort of the magnitudes, zeros struck out."""
    first = torch.sort(-values.abs().flatten(), stable=True).indices
    keeps = torch.zeros(values.numel(), dtype=torch.bool)
    keeps[first[: round(share * values.numel())]] = True
    return keeps.view(values.shape) & (values != 0)


@pytest.mark.parametrize(
    ("values", "share", "mask"),
    [
        ([1.0, -4.0, 2.0, -3.0], 0.5, [0, 1, 0, 1]),  # by magnitude
        ([2.0, 1.0, -1.0, 1.0, 0.5], 0.6, [1, 1, 1, 0, 0]),  # ties: the lower index
        ([0.0, -0.0, 5.0, 0.0], 0.75, [0, 0, 1, 0]),  # zeros never
        ([0.0, 0.0], 1.0, [0, 0]),
        ([3.0, 2.0, 1.0], 0.1, [0, 0, 0]),  # the number is rounded
        ([3.0, 2.0, 1.0], 0.6, [1, 1, 0]),
    ],
)
def test_largest_magnitudes_are_selected_with_ties_to_the_lower_index(values, share, mask):
    assert selected(values, share) == mask


def test_scalars_and_empty_tensors_are_supported():
    assert kept(rule_for(torch.tensor(2.0), 1.0), torch.tensor(2.0)).tolist() is True
    assert kept(rule_for(torch.empty(0, 3), 0.5), torch.empty(0, 3)).shape == (0, 3)


def test_adjacent_floats_and_denormals_are_distinguished():
    values = torch.tensor([1.0, 1.0 + 2**-23, 1e-45, 3e-45, 0.0])
    assert kept(rule_for(values, 0.2), values).tolist() == [False, True, False, False, False]
    assert kept(rule_for(values, 0.6), values).tolist() == [True, True, False, True, False]


@pytest.mark.parametrize("share", [1e-9, 0.1, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_selection_equals_a_stable_sort(share, dtype):
    torch.manual_seed(0)
    values = (torch.randn(30, 41) * 1e-4).to(dtype).float()
    values[torch.rand(30, 41) < 0.3] = 0
    assert torch.equal(kept(rule_for(values, share), values), by_sorting(values, share))


def long_values(kind):
    """Enough elements to be sampled, of a distribution that is easy or hard to sample."""
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(17 * CPU_BLOCK + 7, generator=rng)
    if kind == "few distinct":
        return (values * 3).round()
    if kind == "rising":
        return values * torch.linspace(0, 1, len(values)) ** 4
    if kind == "mostly zero":
        return values * (torch.rand(len(values), generator=rng) < 0.1)
    return values


@pytest.mark.parametrize("share", [0.001, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["normal", "few distinct", "rising", "mostly zero"])
def test_selection_of_sampled_tensors_is_exact(kind, share):
    values = long_values(kind)
    assert torch.equal(kept(rule_for(values, share), values), by_sorting(values, share))


@pytest.mark.parametrize("kind", ["normal", "few distinct"])
def test_selection_does_not_depend_on_threads(kind):
    values = long_values(kind)
    with ThreadPool(4) as threads:
        together = rule_for(values, 0.3, threads=threads, blocks_per_read=3)
    assert together == rule_for(values, 0.3)


def test_sampling_saves_a_pass():
    values, n_read = long_values("normal"), []

    def counted(pivot, sources):
        n_read.append(len(pivot))
        return torch.stack(sources)

    models = models_of({"w": torch.zeros_like(values)}, {"w": values})
    select_largest([RankingScores(models.open("w"), counted, 1)], 0.3, "exact")
    assert sum(n_read) < 1.6 * len(values)


def test_cached_scores_are_computed_once():
    values, n_read = long_values("normal"), []

    def counted(pivot, sources):
        n_read.append(len(pivot))
        return torch.stack(sources)

    how = {"cache_bytes": cached_bytes(1) * len(values)}
    models = models_of({"w": torch.zeros_like(values)}, {"w": values}, **how)
    scores = RankingScores(models.open("w"), counted, 1)
    (selection,) = select_largest([scores], 0.3, "exact")
    mask = TopKMask(scores, [selection.rules["w"]])
    block = values[CPU_BLOCK : 2 * CPU_BLOCK]
    expected = by_sorting(values, 0.3)[CPU_BLOCK : 2 * CPU_BLOCK]
    assert torch.equal(mask.at(block, [block], CPU_BLOCK).squeeze(0), expected)
    assert sum(n_read) == len(values)
    part = mask.at(block[100:300], [block[100:300]], CPU_BLOCK + 100)  # part of a block
    assert torch.equal(part.squeeze(0), expected[100:300])


def test_rule_breaks_ties_by_the_global_index():
    rule = KeepRule(threshold=1.0, cutoff=6)
    values = torch.tensor([1.0, 2.0, -1.0, 0.5])
    assert kept(rule, values, 4).tolist() == [True, True, False, False]
    assert kept(rule, values, 0).tolist() == [True, True, True, False]
    assert kept(rule, values, 8).tolist() == [False, True, False, False]


@pytest.mark.usefixtures("code_path")
@pytest.mark.parametrize("start", [0, 1, 3, 9])
def test_what_other_rules_keep_is_left_out(start):
    rules = [KeepRule(threshold=1.0, cutoff=4), KeepRule(threshold=0.0, cutoff=0)]
    without = [KeepRule(threshold=3.0, cutoff=5), KeepRule(threshold=math.inf, cutoff=0)]
    values = torch.tensor([[1.0, -3.0, 3.0, 2.0, -4.0], [0.0, 1.0, -1.0, 0.0, 5.0]])
    masks = survivors(rules, values, start, without)
    assert torch.equal(
        masks, survivors(rules, values, start) & ~survivors(without, values, start)
    )
    assert masks[1].tolist() == [False, True, True, False, True]
    if (
        start == 3
    ):  # of each row the first element alone is a tie that survives, the first two fall
        assert masks[0].tolist() == [True, False, True, True, False]


@pytest.mark.usefixtures("code_path")
def test_rules_apply_per_row():
    rules = [KeepRule(threshold=1.0, cutoff=2), KeepRule(threshold=0.0, cutoff=9)]
    values = torch.tensor([[1.0, -1.0, 1.0, -3.0], [0.0, -2.0, 1.0, 0.0]])
    masks = survivors(rules, values, 0)
    assert masks.tolist() == [[True, True, False, True], [True, True, True, True]]
    assert survivors(rules[:1], values[:1], 2).tolist() == [[False, False, False, True]]


def test_ranking_is_over_all_tensors_per_source():
    a = (torch.tensor([5.0, 1.0]), torch.tensor([1.0, 0.0]))
    b = (torch.tensor([2.0, -4.0]), torch.tensor([7.0, 8.0]))
    first, second = select({"a": a, "b": b}, 0.5)
    assert (first.threshold, second.threshold) == (4.0, 7.0)
    assert kept(first.rules["a"], a[0]).tolist() == [True, False]
    assert kept(second.rules["a"], a[1]).tolist() == [False, False]
    assert kept(second.rules["b"], b[1]).tolist() == [True, True]


@pytest.mark.parametrize("share", [0.001, 0.2, 0.55, 1.0])
@pytest.mark.parametrize("sizes", [[3, 997], [500, 0, 1, 499], [1000]])
def test_selection_does_not_depend_on_the_split_into_tensors(share, sizes):
    torch.manual_seed(1)
    whole = torch.randint(-20, 21, (1000,)).float() * 2**-13
    pieces = {str(i): (piece,) for i, piece in enumerate(whole.split(sizes))}
    (selection,) = select(pieces, share)
    masks = [kept(selection.rules[name], piece) for name, (piece,) in pieces.items()]
    assert torch.equal(torch.cat(masks), by_sorting(whole, share))
    assert selection.share_kept == by_sorting(whole, share).sum() / 1000


def test_ties_are_cut_in_tensor_order():
    (selection,) = select({name: (torch.ones(4),) for name in "abc"}, 0.5)
    assert [selection.rules[name].cutoff for name in "abc"] == [4, 2, 0]


def test_keep_all_keeps_every_tie():
    values = torch.tensor([3.0, 1.0, -1.0, 1.0, 0.0])
    assert kept(rule_for(values, 0.4), values).tolist() == [1, 1, 0, 0, 0]
    assert kept(rule_for(values, 0.4, "keep_all"), values).tolist() == [1, 1, 1, 1, 0]


def test_keep_all_threshold_equals_the_ties_authors_code():
    # their code: kthvalue(d - int(d * K)) of the ascending magnitudes, here the second smallest
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    threshold = values.kthvalue(4 - int(4 * 0.5)).values
    assert rule_for(values, 0.5, "keep_all").threshold == threshold == 2.0
    assert rule_for(values, 0.5).threshold == 3.0


def test_keep_all_with_threshold_zero_keeps_everything():
    (selection,) = select({"a": (torch.tensor([1.0, 0.0, 0.0, 0.0]),)}, 0.5, "keep_all")
    assert (selection.threshold, selection.share_kept) == (0.0, 1.0)


def test_share_rounding_to_zero_has_an_infinite_threshold():
    (selection,) = select({"a": (torch.ones(4),)}, 0.1)
    assert (selection.threshold, selection.share_kept) == (math.inf, 0.0)
    assert not kept(selection.rules["a"], torch.ones(4)).any()


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_outside_the_unit_interval_is_named(share):
    with pytest.raises(ValueError, match=rf"share must be in \(0, 1\], got {share}"):
        rule_for(torch.ones(2), share)
