"""Similarity of attention circuits, against explicit products; matching of rotary pairs."""

import math

import pytest
import torch

from seme.alignment.circuits import (
    circuit_inner,
    output_similarity,
    pair_frequencies,
    pairwise_rotation,
    rotary_inner,
    score_similarity,
)
from tests.attention_layers import frequencies

FREQUENCIES = (1.0, 0.37)


def random_rows(seed, n, size, width=6):
    return torch.randn(n, size, width, generator=torch.Generator().manual_seed(seed))


def rotary(rows, position, n_pairs=2):
    """Rotate-half rotary embedding of the rows of one head."""
    angle = position * torch.tensor(FREQUENCIES[:n_pairs])[:, None]
    first, second = rows[:n_pairs], rows[n_pairs : 2 * n_pairs]
    return torch.cat(
        [
            first * angle.cos() - second * angle.sin(),
            second * angle.cos() + first * angle.sin(),
            rows[2 * n_pairs :],
        ]
    )


def test_circuit_inner_equals_explicit_products():
    # 4 heads in 2 groups against 3 heads in 1 group of another head size
    left, right = random_rows(1, 4, 5), random_rows(2, 2, 5)
    left_m, right_m = random_rows(3, 3, 4), random_rows(4, 1, 4)
    inner = circuit_inner(left, right, left_m, right_m)
    for n in range(4):
        for m in range(3):
            circuit, other = left[n].T @ right[n // 2], left_m[m].T @ right_m[0]
            torch.testing.assert_close(
                inner[n, m], (circuit * other).sum(), rtol=1e-4, atol=1e-4
            )


def test_output_similarity_equals_the_explicit_cosine():
    outputs, values = random_rows(1, 4, 5), random_rows(2, 2, 5)
    other_outputs, other_values = random_rows(3, 3, 4), random_rows(4, 3, 4)
    actual = output_similarity(outputs, values, other_outputs, other_values)
    circuit, other = outputs[3].T @ values[1], other_outputs[2].T @ other_values[2]
    expected = (circuit * other).sum() / (circuit.norm() * other.norm())
    torch.testing.assert_close(actual[3, 2], expected)


def test_rotary_inner_is_the_mean_over_relative_positions():
    query, key, other_query, other_key = (random_rows(seed, 1, 4)[0] for seed in (1, 2, 3, 4))
    mean = sum(
        ((rotary(query, t).T @ key) * (rotary(other_query, t).T @ other_key)).sum()
        for t in range(4_000)
    )
    planes = torch.tensor([[0, 2], [1, 3]])
    rows = [part[planes][None] for part in (query, key, other_query, other_key)]
    torch.testing.assert_close(rotary_inner(*rows)[0, 0], mean / 4_000, rtol=2e-3, atol=5e-2)


@pytest.mark.parametrize("size", [4, 7])
def test_score_similarity_of_a_head_with_itself_is_one(size):
    queries, keys = random_rows(1, 4, size), random_rows(2, 2, size)
    actual = score_similarity(
        queries, keys, queries, keys, pair_frequencies(*[FREQUENCIES] * 2)
    )
    torch.testing.assert_close(actual.diagonal(), torch.ones(4))
    assert (actual - torch.eye(4) < 0.99).all()


def test_score_similarity_is_invariant_to_a_shared_rotation():
    pairs = pair_frequencies(FREQUENCIES, FREQUENCIES)
    queries, keys, others = random_rows(1, 1, 4), random_rows(2, 1, 4), random_rows(3, 1, 4)
    turned_rows = [rotary(rows[0], 2.5)[None] for rows in (queries, keys)]
    torch.testing.assert_close(
        score_similarity(queries, keys, others, keys, pairs),
        score_similarity(*turned_rows, others, keys, pairs),
    )


def test_score_similarity_changes_with_a_rotation_of_the_query_alone():
    # looking half a turn away is the opposite circuit
    pairs = pair_frequencies([1.0], [1.0])
    queries, keys = random_rows(1, 1, 2), random_rows(2, 1, 2)
    actual = score_similarity(queries, keys, -queries, keys, pairs)
    torch.testing.assert_close(actual, torch.tensor([[-1.0]]))


def test_unmatched_rotary_pairs_do_not_contribute_to_similarity():
    # the source has one pair, at the pivot's second; the pivot's two are of equal norm
    pairs = pair_frequencies([1.0, 0.5], [0.5])
    rows = torch.eye(4)[None]
    actual = score_similarity(rows, rows, rows[:, [1, 3]], rows[:, [1, 3]], pairs)
    torch.testing.assert_close(actual, torch.tensor([[0.5**0.5]]))


def test_zero_circuits_have_similarity_zero():
    rows, zeros = random_rows(1, 2, 4), torch.zeros(2, 4, 6)
    assert output_similarity(rows, zeros, rows, rows).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("pivot", "source", "index", "exact"),
    [
        (frequencies(64), frequencies(64), range(32), True),
        (frequencies(64), frequencies(128), range(0, 64, 2), False),
        ([10.0, 2.0], [100.0, 10.0, 1.0], [1, 2], False),  # 2 is nearer 1 than 100
        ([10.0], [1.0, 30.0], [1], False),  # 30 is nearer 10 than 1 in ratio
        (frequencies(8, 64.0), frequencies(8, 300.0), range(4), False),  # only 1 is shared
        ([1.0], [1.0 + 0.9e-6], [0], True),
        ([1.0], [1.0 + 1.1e-6], [0], False),
        ([1.0, 1.0, 1.0], [1.0, 1.0], [0, 1, -1], True),
        ([], [], [], True),
        ([1.0], [], [-1], True),
        ([], [1.0], [], False),  # the source's pair has no counterpart
    ],
)
def test_pairs_match_equal_frequencies_first_then_the_nearest_in_ratio(
    pivot, source, index, exact
):
    match = pair_frequencies(pivot, source)
    assert (match.index, match.exact) == (tuple(index), exact)
    assert match.planes.shape == match.source_planes.shape


def test_head_dim_64_matches_every_second_pair_of_128():
    match = pair_frequencies(frequencies(128), frequencies(64))
    assert match.index[::2] == tuple(range(32))
    assert set(match.index[1::2]) == {-1}
    assert match.exact


def test_another_theta_matches_equal_frequencies_exactly():
    # 10^4 ** (-3 / 32) = 10^6 ** (-2 / 32)
    match = pair_frequencies(frequencies(64, 1e4), frequencies(64, 1e6))
    assert match.index[3] == 2
    assert sorted(match.index) == list(range(32))


def test_rotary_planes_are_the_dimensions_of_matched_pairs():
    # pivot head of 8 dimensions, pair i = (i, i + 4); source head of 4, pair i = (i, i + 2)
    match = pair_frequencies(frequencies(8), frequencies(4))
    assert match.planes.tolist() == [[0, 4], [2, 6]]
    assert match.source_planes.tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_non_positive_frequencies_are_refused(bad):
    with pytest.raises(ValueError, match=rf"positive and finite.* \[{bad}\]"):
        pair_frequencies([1.0], [bad])


@pytest.mark.parametrize(
    ("cross", "rotation"),
    [
        ([[0.0, -1.0], [1.0, 0.0]], [[0.0, -1.0], [1.0, 0.0]]),  # (x, y) -> (-y, x)
        (
            [[1.0, 0.0], [0.0, -1.0]],
            [[1.0, 0.0], [0.0, 1.0]],
        ),  # every turn fits a mirror equally
    ],
)
def test_pairwise_rotation_of_a_quarter_turn_and_of_a_reflection(cross, rotation):
    torch.testing.assert_close(
        pairwise_rotation(torch.tensor([cross])), torch.tensor([rotation])
    )


def test_pairwise_rotation_maximises_the_trace():
    cross = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    actual = (pairwise_rotation(cross) * cross).sum(dim=(1, 2))
    angle = torch.linspace(0, 2 * math.pi, 3601, dtype=torch.float64)
    turns = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1)
    best = (cross.view(5, 1, 4) * turns).sum(dim=2).amax(dim=1)
    assert (actual >= best).all()
    torch.testing.assert_close(actual, best, rtol=1e-5, atol=0.0)


def test_pairwise_rotations_have_determinant_one():
    rotation = pairwise_rotation(
        torch.randn(8, 2, 2, generator=torch.Generator().manual_seed(0))
    )
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(8))
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(2).expand(8, 2, 2))


def test_in_order_match_is_exact_only_with_equal_frequencies():
    assert pair_frequencies([1.0, 0.5], [1.0, 0.5]).in_order().exact
    swapped = pair_frequencies([1.0, 0.5], [0.5, 1.0])
    assert swapped.exact
    assert swapped.in_order().index == (0, 1)
    assert not swapped.in_order().exact
