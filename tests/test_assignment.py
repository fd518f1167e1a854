"""One-to-one assignment of units and of groups of units."""

from itertools import permutations

import pytest
import torch

from seme.alignment.assignment import assign, assign_groups


def test_assignment_maximises_the_sum_not_the_entry():
    # 0.9 + 0.0 < 0.8 + 0.7
    assert assign(torch.tensor([[0.9, 0.8], [0.7, 0.0]])).tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(5, 5), (4, 6), (6, 4)])
def test_assignment_is_optimal_over_all_permutations(shape):
    similarity = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    index = assign(similarity)
    actual = similarity[index >= 0, index[index >= 0]].sum()
    few, many = sorted(shape)
    wide = similarity if shape[0] <= shape[1] else similarity.T
    best = max(
        sum(wide[i, j] for i, j in enumerate(order)) for order in permutations(range(many), few)
    )
    assert actual == pytest.approx(float(best))
    assert (index >= 0).sum() == few


def test_surplus_rows_are_unassigned():
    assert assign(torch.tensor([[0.1], [0.3], [0.2]])).tolist() == [-1, 0, -1]
    assert assign(torch.zeros(2, 0)).tolist() == [-1, -1]
    assert assign(torch.zeros(0, 2)).tolist() == []


def test_groups_are_scored_by_their_best_inner_assignment():
    # rows {0, 1}, {2, 3} against columns {0, 1}, {2, 3}: crosswise both pairs of groups fit 1.0
    similarity = torch.tensor(
        [[0.6, 0.6, 0.0, 1.0], [0.6, 0.6, 1.0, 0.0], [1.0, 0.0, 0.9, 0.9], [0.0, 1.0, 0.9, 0.9]]
    )
    groups, units, means = assign_groups(similarity, n_groups=2, n_groups_source=2)
    assert groups.tolist() == [1, 0]
    assert units.tolist() == [3, 2, 0, 1]
    assert means.tolist() == [1.0, 1.0]


def test_units_are_assigned_within_their_group():
    # unit by unit 0 -> 2 and 1 -> 0 would be best, but 2 is in another group than 0
    similarity = torch.tensor([[0.1, 0.2, 0.9, 0.0], [0.8, 0.3, 0.0, 0.1]])
    groups, units, means = assign_groups(similarity, n_groups=1, n_groups_source=2)
    assert groups.tolist() == [0]
    assert units.tolist() == [1, 0]
    assert means.tolist() == pytest.approx([0.5])


def test_unmatched_groups_and_units_are_minus_one():
    # three groups of two rows, one group of one column: the best row of the best group gets it
    similarity = torch.tensor([[0.1], [0.2], [0.3], [0.9], [0.4], [0.5]])
    groups, units, means = assign_groups(similarity, n_groups=3, n_groups_source=1)
    assert groups.tolist() == [-1, 0, -1]
    assert units.tolist() == [-1, -1, -1, 0, -1, -1]
    assert means.tolist() == pytest.approx([0.0, 0.9, 0.0])
