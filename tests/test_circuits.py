"""Inner products of attention circuits, against the circuits written out."""

import pytest
import torch

from seme.alignment.circuits import (
    circuit_inner,
    output_similarity,
    pair_frequencies,
    rotary_inner,
    score_similarity,
)

FREQUENCIES = (1.0, 0.37)


def random_rows(seed, n, size, width=6):
    return torch.randn(n, size, width, generator=torch.Generator().manual_seed(seed))


def turned(rows, position, n_pairs=2):
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


def test_inner_products_are_those_of_the_products_written_out():
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


def test_output_similarity_is_the_cosine_of_the_products_written_out():
    outputs, values = random_rows(1, 4, 5), random_rows(2, 2, 5)
    other_outputs, other_values = random_rows(3, 3, 4), random_rows(4, 3, 4)
    found = output_similarity(outputs, values, other_outputs, other_values)
    circuit, other = outputs[3].T @ values[1], other_outputs[2].T @ other_values[2]
    expected = (circuit * other).sum() / (circuit.norm() * other.norm())
    torch.testing.assert_close(found[3, 2], expected)


def test_rotary_inner_products_are_means_over_relative_positions():
    query, key, other_query, other_key = (random_rows(seed, 1, 4)[0] for seed in (1, 2, 3, 4))
    mean = sum(
        ((turned(query, t).T @ key) * (turned(other_query, t).T @ other_key)).sum()
        for t in range(4_000)
    )
    planes = torch.tensor([[0, 2], [1, 3]])
    rows = [part[planes][None] for part in (query, key, other_query, other_key)]
    torch.testing.assert_close(rotary_inner(*rows)[0, 0], mean / 4_000, rtol=2e-3, atol=5e-2)


@pytest.mark.parametrize("size", [4, 7])
def test_score_similarity_of_a_head_with_itself_is_one(size):
    queries, keys = random_rows(1, 4, size), random_rows(2, 2, size)
    found = score_similarity(queries, keys, queries, keys, pair_frequencies(*[FREQUENCIES] * 2))
    torch.testing.assert_close(found.diagonal(), torch.ones(4))
    assert (found - torch.eye(4) < 0.99).all()


def test_score_similarity_does_not_see_a_turn_shared_by_query_and_key():
    pairs = pair_frequencies(FREQUENCIES, FREQUENCIES)
    queries, keys, others = random_rows(1, 1, 4), random_rows(2, 1, 4), random_rows(3, 1, 4)
    turned_rows = [turned(rows[0], 2.5)[None] for rows in (queries, keys)]
    torch.testing.assert_close(
        score_similarity(queries, keys, others, keys, pairs),
        score_similarity(*turned_rows, others, keys, pairs),
    )


def test_score_similarity_sees_a_turn_of_the_query_alone():
    # looking half a turn away is the opposite circuit
    pairs = pair_frequencies([1.0], [1.0])
    queries, keys = random_rows(1, 1, 2), random_rows(2, 1, 2)
    found = score_similarity(queries, keys, -queries, keys, pairs)
    torch.testing.assert_close(found, torch.tensor([[-1.0]]))


def test_a_pair_of_another_frequency_has_no_part_in_the_similarity():
    # the source has one pair, at the pivot's second; the pivot's two are of equal norm
    pairs = pair_frequencies([1.0, 0.5], [0.5])
    rows = torch.eye(4)[None]
    found = score_similarity(rows, rows, rows[:, [1, 3]], rows[:, [1, 3]], pairs)
    torch.testing.assert_close(found, torch.tensor([[0.5**0.5]]))


def test_circuits_of_zeros_have_cosine_zero():
    rows, zeros = random_rows(1, 2, 4), torch.zeros(2, 4, 6)
    assert output_similarity(rows, zeros, rows, rows).tolist() == [[0.0, 0.0], [0.0, 0.0]]
