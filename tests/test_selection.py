import math

import pytest
import torch

from seme.selection import KeepRule, rule_for, select_largest, select_over_stream


def selected(values, share):
    return select_largest(torch.tensor(values), share).int().tolist()


def by_sorting(values, share):
    """Naive oracle: a stable sort of the magnitudes, zeros struck out."""
    first = torch.sort(-values.abs().flatten(), stable=True).indices
    keeps = torch.zeros(values.numel(), dtype=torch.bool)
    keeps[first[: round(share * values.numel())]] = True
    return keeps.view(values.shape) & (values != 0)


def streaming(columns_by_name, share, trim_ties="exact"):
    """Select over named tuples of tensors; return the selections and the names read."""
    read = []

    def stream(names):
        for name in names:
            read.append(name)
            yield name, iter(columns_by_name[name])

    return select_over_stream(stream, list(columns_by_name), share, trim_ties), read


def test_the_largest_magnitudes_are_selected_whatever_their_sign():
    assert selected([1.0, -4.0, 2.0, -3.0], 0.5) == [0, 1, 0, 1]


def test_ties_go_to_the_lower_index():
    assert selected([2.0, 1.0, -1.0, 1.0, 0.5], 0.6) == [1, 1, 1, 0, 0]


def test_zeros_are_never_selected_even_if_fewer_than_the_share_remain():
    assert selected([0.0, -0.0, 5.0, 0.0], 0.75) == [0, 0, 1, 0]
    assert selected([0.0, 0.0], 1.0) == [0, 0]


def test_a_share_that_rounds_to_no_element_selects_none():
    assert selected([3.0, 2.0, 1.0], 0.1) == [0, 0, 0]


def test_the_number_selected_is_rounded_and_not_cut():
    assert selected([3.0, 2.0, 1.0], 0.6) == [1, 1, 0]


def test_scalars_and_empty_tensors_keep_their_shape():
    assert select_largest(torch.tensor(2.0), 1.0).tolist() is True
    assert select_largest(torch.empty(0, 3), 0.5).shape == (0, 3)


def test_neighbouring_floats_and_denormals_are_told_apart():
    values = torch.tensor([1.0, 1.0 + 2**-23, 1e-45, 3e-45, 0.0])
    assert select_largest(values, 0.2).tolist() == [False, True, False, False, False]
    assert select_largest(values, 0.6).tolist() == [True, True, False, True, False]


@pytest.mark.parametrize("share", [1e-9, 0.1, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_selection_is_that_of_a_stable_sort(share, dtype):
    torch.manual_seed(0)
    values = (torch.randn(30, 41) * 1e-4).to(dtype).float()
    values[torch.rand(30, 41) < 0.3] = 0
    assert torch.equal(select_largest(values, share), by_sorting(values, share))


def test_a_tensor_longer_than_a_block_is_selected_as_one():
    torch.manual_seed(0)
    values = torch.randint(-3, 4, (600_000,)).float()
    assert torch.equal(select_largest(values, 0.4), by_sorting(values, 0.4))


def test_a_rule_breaks_ties_by_the_index_in_the_whole_tensor():
    rule = KeepRule(threshold=1.0, cutoff=6)
    values = torch.tensor([1.0, 2.0, -1.0, 0.5])
    assert rule.keeps(values, 4).tolist() == [True, True, False, False]
    assert rule.keeps(values, 0).tolist() == [True, True, True, False]
    assert rule.keeps(values, 8).tolist() == [False, True, False, False]


def test_a_stream_is_ranked_as_a_whole_and_each_column_by_itself():
    a = (torch.tensor([5.0, 1.0]), torch.tensor([1.0, 0.0]))
    b = (torch.tensor([2.0, -4.0]), torch.tensor([7.0, 8.0]))
    (first, second), _ = streaming({"a": a, "b": b}, 0.5)
    assert (first.threshold, second.threshold) == (4.0, 7.0)
    assert first.rules["a"].keeps(a[0]).tolist() == [True, False]
    assert second.rules["a"].keeps(a[1]).tolist() == [False, False]
    assert second.rules["b"].keeps(b[1]).tolist() == [True, True]


@pytest.mark.parametrize("share", [0.001, 0.2, 0.55, 1.0])
@pytest.mark.parametrize("sizes", [[3, 997], [500, 0, 1, 499], [1000]])
def test_how_the_elements_are_cut_into_tensors_does_not_matter(share, sizes):
    torch.manual_seed(1)
    whole = torch.randint(-20, 21, (1000,)).float() * 2**-13
    pieces = {str(i): (piece,) for i, piece in enumerate(whole.split(sizes))}
    (selection,), _ = streaming(pieces, share)
    keeps = [selection.rules[name].keeps(piece) for name, (piece,) in pieces.items()]
    assert torch.equal(torch.cat(keeps), by_sorting(whole, share))
    assert selection.share_kept == by_sorting(whole, share).sum() / 1000


def test_a_stream_is_read_twice_and_the_tensor_with_the_cut_ties_once_more():
    ones = {name: (torch.ones(4),) for name in "abc"}
    (selection,), read = streaming(ones, 0.5)
    assert "".join(read) == "abcabcb"
    assert [selection.rules[name].cutoff for name in "abc"] == [4, 2, 0]


def test_keep_all_keeps_the_ties_that_exact_cuts():
    values = torch.tensor([3.0, 1.0, -1.0, 1.0, 0.0])
    assert rule_for(values, 0.4, "exact").keeps(values).tolist() == [1, 1, 0, 0, 0]
    assert rule_for(values, 0.4, "keep_all").keeps(values).tolist() == [1, 1, 1, 1, 0]


def test_keep_all_takes_the_threshold_one_rank_lower_as_the_ties_authors_do():
    # their code: kthvalue(d - int(d * K)) of the ascending magnitudes, here the second smallest
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    threshold = values.kthvalue(4 - int(4 * 0.5)).values
    assert rule_for(values, 0.5, "keep_all").threshold == threshold == 2.0
    assert rule_for(values, 0.5, "exact").threshold == 3.0


def test_keep_all_keeps_everything_where_most_values_are_zero():
    (selection,), _ = streaming({"a": (torch.tensor([1.0, 0.0, 0.0, 0.0]),)}, 0.5, "keep_all")
    assert (selection.threshold, selection.share_kept) == (0.0, 1.0)


def test_nothing_survives_a_share_that_rounds_to_zero():
    (selection,), _ = streaming({"a": (torch.ones(4),)}, 0.1)
    assert (selection.threshold, selection.share_kept) == (math.inf, 0.0)
    assert not selection.rules["a"].keeps(torch.ones(4)).any()


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_outside_the_unit_interval_is_named(share):
    with pytest.raises(ValueError, match=rf"share must be in \(0, 1\], got {share}"):
        select_largest(torch.ones(2), share)
