"""Rotary pairs of two models: which belong together, and the turn between them."""

import math

import pytest
import torch

from seme.alignment.circuits import pair_frequencies, pairwise_rotation


def frequencies(head_dim, theta=10_000.0):
    return [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]


def test_equal_frequencies_match_pair_by_pair():
    match = pair_frequencies(frequencies(64), frequencies(64))
    assert match.index == tuple(range(32))
    assert match.exact


def test_a_head_of_64_stands_at_every_second_pair_of_a_head_of_128():
    match = pair_frequencies(frequencies(128), frequencies(64))
    assert match.index[::2] == tuple(range(32))
    assert set(match.index[1::2]) == {-1}
    assert match.exact


def test_a_head_of_128_loses_every_second_pair_in_a_head_of_64():
    match = pair_frequencies(frequencies(64), frequencies(128))
    assert match.index == tuple(range(0, 64, 2))
    assert not match.exact


def test_a_frequency_without_an_equal_takes_the_nearest_left():
    # 10 is equal; of 1 and 100 the pivot's 2 is nearest 1 in log frequency
    match = pair_frequencies([10.0, 2.0], [100.0, 10.0, 1.0])
    assert match.index == (1, 2)
    assert not match.exact


def test_nearest_means_nearest_in_ratio():
    # 30 is three times 10, which is ten times 1, though 1 lies closer to 10 than 30 does
    assert pair_frequencies([10.0], [1.0, 30.0]).index == (1,)


def test_other_theta_keeps_the_order_of_the_pairs_that_have_no_equal():
    # 64 ** (-i / 4) and 300 ** (-j / 4) share only the 1 of pair 0
    match = pair_frequencies(frequencies(8, 64.0), frequencies(8, 300.0))
    assert match.index == (0, 1, 2, 3)
    assert not match.exact


def test_other_theta_still_shares_some_frequencies_exactly():
    # 10^4 ** (-3 / 32) = 10^6 ** (-2 / 32)
    match = pair_frequencies(frequencies(64, 1e4), frequencies(64, 1e6))
    assert match.index[3] == 2
    assert sorted(match.index) == list(range(32))


def test_frequencies_match_within_one_part_in_a_million():
    assert pair_frequencies([1.0], [1.0 + 0.9e-6]).exact
    assert not pair_frequencies([1.0], [1.0 + 1.1e-6]).exact


def test_equal_source_frequencies_are_each_used_once():
    assert pair_frequencies([1.0, 1.0, 1.0], [1.0, 1.0]).index == (0, 1, -1)


def test_models_without_rotary_positions_match_exactly():
    match = pair_frequencies([], [])
    assert match.index == ()
    assert match.planes.shape == match.source_planes.shape == (0, 2)
    assert match.exact


def test_rotary_positions_in_one_model_only_are_not_exact_for_the_source_that_has_them():
    assert not pair_frequencies([], [1.0]).exact
    assert pair_frequencies([1.0], []).index == (-1,)


def test_planes_are_the_dimensions_of_matched_pairs():
    # pivot head of 8 dimensions, pair i = (i, i + 4); source head of 4, pair i = (i, i + 2)
    match = pair_frequencies(frequencies(8), frequencies(4))
    assert match.planes.tolist() == [[0, 4], [2, 6]]
    assert match.source_planes.tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_frequencies_that_are_not_positive_are_refused(bad):
    with pytest.raises(
        ValueError, match=rf"must be positive and finite, the source has \[{bad}\]"
    ):
        pair_frequencies([1.0], [bad])


def test_a_quarter_turn_is_found():
    # the pivot's plane is the source's, turned by 90 degrees: (x, y) -> (-y, x)
    cross = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])
    torch.testing.assert_close(pairwise_rotation(cross), cross)


def test_the_rotation_has_the_greatest_trace_of_all_angles():
    cross = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    found = (pairwise_rotation(cross) * cross).sum(dim=(1, 2))
    angle = torch.linspace(0, 2 * math.pi, 3601, dtype=torch.float64)
    turns = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1)
    best = (cross.view(5, 1, 4) * turns).sum(dim=2).amax(dim=1)
    assert (found >= best).all()
    torch.testing.assert_close(found, best, rtol=1e-5, atol=0.0)


def test_a_reflection_is_answered_with_a_rotation():
    # of a mirrored plane every turn fits equally badly; without reason to turn it stays
    mirror = torch.diag(torch.tensor([1.0, -1.0]))[None]
    assert pairwise_rotation(mirror).tolist() == [[[1.0, 0.0], [0.0, 1.0]]]


def test_rotations_turn_with_position_in_the_same_sense():
    rotation = pairwise_rotation(
        torch.randn(8, 2, 2, generator=torch.Generator().manual_seed(0))
    )
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(8))
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(2).expand(8, 2, 2))


def test_pairs_left_in_order_are_exact_only_where_their_frequencies_are_equal():
    assert pair_frequencies([1.0, 0.5], [1.0, 0.5]).in_order().exact
    swapped = pair_frequencies([1.0, 0.5], [0.5, 1.0])
    assert swapped.exact
    assert swapped.in_order().index == (0, 1)
    assert not swapped.in_order().exact
