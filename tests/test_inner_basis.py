"""The inner basis of a head group: orthogonal Procrustes and one rotation per rotary pair."""

import torch

from seme.alignment.attention import query_key_basis, value_output_basis
from seme.alignment.circuits import pair_frequencies


def random_rows(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_two_coordinates_by_hand():
    # the source has the pivot's two coordinates swapped, one negated: v = R v_source
    values = torch.eye(2)
    source = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    basis = value_output_basis(values, values[None], source, source[None])
    torch.testing.assert_close(basis, torch.tensor([[0.0, -1.0], [1.0, 0.0]]))


def test_a_wider_head_takes_all_of_a_narrower_one():
    args = random_rows(1, 6, 9), random_rows(2, 2, 6, 9)
    basis = value_output_basis(*args, random_rows(3, 4, 9), random_rows(4, 2, 4, 9))
    assert basis.shape == (6, 4)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4))


def test_no_other_basis_fits_better():
    values, outputs = random_rows(1, 3, 9), random_rows(2, 2, 3, 9)
    other_values, other_outputs = random_rows(3, 3, 9), random_rows(4, 2, 3, 9)

    def fit(basis):
        v = (values * (basis @ other_values)).sum() / (values.norm() * other_values.norm())
        o = (outputs * (basis @ other_outputs)).sum() / (outputs.norm() * other_outputs.norm())
        return v + o

    best = fit(value_output_basis(values, outputs, other_values, other_outputs))
    for seed in range(50):
        assert fit(torch.linalg.qr(random_rows(seed, 3, 3))[0]) < best


def test_values_and_outputs_count_alike_whatever_their_scale():
    args = random_rows(1, 3, 9), random_rows(2, 2, 3, 9), random_rows(3, 3, 9)
    outputs = random_rows(4, 2, 3, 9)
    torch.testing.assert_close(
        value_output_basis(*args, outputs), value_output_basis(*args, 1000 * outputs)
    )


def test_outputs_alone_fix_the_basis_where_values_say_nothing():
    outputs, turn = random_rows(1, 2, 3, 9), torch.linalg.qr(random_rows(2, 3, 3))[0]
    nothing = torch.zeros(3, 9)
    found = value_output_basis(nothing, turn @ outputs, nothing, outputs)
    torch.testing.assert_close(found, turn)


def test_dimensions_without_position_follow_the_pairs_of_their_own_model():
    # pivot: pairs (0, 2), (1, 3), free 4; source: pair (0, 1), free 2
    pairs = pair_frequencies([1.0, 0.5], [0.5])
    rows = random_rows(1, 1, 5, 9)
    basis = query_key_basis(rows, rows[0], rows[:, [1, 3, 4]], rows[0][[1, 3, 4]], pairs)
    torch.testing.assert_close(basis, torch.eye(5)[:, [1, 3, 4]])


def test_rotary_dimensions_turn_in_their_planes_only():
    # head of 5: pairs (0, 2), (1, 3), dimension 4 without position
    pairs = pair_frequencies([1.0, 0.5], [1.0, 0.5])
    basis = query_key_basis(
        random_rows(1, 2, 5, 9),
        random_rows(2, 5, 9),
        random_rows(3, 2, 5, 9),
        random_rows(4, 5, 9),
        pairs,
    )
    mask = torch.eye(5).bool()
    mask[[0, 2, 1, 3], [2, 0, 3, 1]] = True
    assert not basis[~mask].any()
    torch.testing.assert_close(basis @ basis.T, torch.eye(5))
    torch.testing.assert_close(basis[0, 0], basis[2, 2])
    torch.testing.assert_close(basis[0, 2], -basis[2, 0])


def test_pairs_stand_at_their_frequency_and_leave_the_others_empty():
    pairs = pair_frequencies([1.0, 0.7, 0.5], [0.5])
    rows = random_rows(1, 1, 6, 9)
    basis = query_key_basis(rows, rows[0], rows[:, [2, 5]], rows[0][[2, 5]], pairs)
    torch.testing.assert_close(basis, torch.eye(6)[:, [2, 5]])
