"""What a residual map does to the parts of a model."""

import pytest
import torch

from scripts.disguise import random_turn
from seme.alignment.residual_map import ResidualMap
from seme.alignment.transform import (
    READERS,
    WRITERS,
    restrict_part,
    turn_block,
    turn_final_norm,
    turn_part,
    width_scale,
)
from seme.architecture.parts import Part
from tests.disguise import as_map

SHEAR = ResidualMap(
    forward_PK=torch.tensor([[1.0, 2.0], [0.0, 1.0]]),
    backward_KP=torch.tensor([[1.0, -2.0], [0.0, 1.0]]),
    support_PP=None,
    distance=2**0.5,
    similarity=1.0,
)
# the two directions of the source are the first and the last of the pivot's eight
WIDENING = as_map(torch.eye(8)[:, [0, 7]])
MATRIX = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
VECTOR = torch.tensor([2.0, 3.0])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Part.EMBEDDING, [[3.0, 1.0], [4.0, 2.0]]),  # E T^t
        (Part.POSITIONS, [[3.0, 1.0], [4.0, 2.0]]),
        (Part.O, [[1.0, 5.0], [0.0, 2.0]]),  # T W
        (Part.DOWN, [[1.0, 5.0], [0.0, 2.0]]),
        (Part.Q, [[1.0, -1.0], [0.0, 2.0]]),  # W T^-1
        (Part.HEAD, [[1.0, -1.0], [0.0, 2.0]]),
    ],
)
def test_a_matrix_is_turned_on_the_side_of_the_residual_stream(part, expected):
    assert turn_part(part, MATRIX, SHEAR, normed=True).tolist() == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Part.O_BIAS, [8.0, 3.0]),  # T b
        (Part.DOWN_BIAS, [8.0, 3.0]),
        (Part.Q_BIAS, [2.0, 3.0]),
        (Part.UP_BIAS, [2.0, 3.0]),
        (Part.Q_NORM, [2.0, 3.0]),
        (Part.ATTENTION_NORM, [1.0, 1.0]),  # folded
        (Part.MLP_NORM_BIAS, [0.0, 0.0]),
    ],
)
def test_a_vector_is_turned_where_it_lives_in_the_residual_stream(part, expected):
    assert turn_part(part, VECTOR, SHEAR, normed=False).tolist() == expected


def test_nothing_happens_in_the_pivots_own_frame():
    for part in (Part.Q, Part.O, Part.EMBEDDING, Part.ATTENTION_POST_NORM, Part.MLP_NORM):
        assert turn_part(part, MATRIX, None, normed=True) is MATRIX
        assert restrict_part(part, MATRIX, None) is MATRIX
    assert turn_final_norm(Part.FINAL_NORM, VECTOR, None, head_scale=2.0) is VECTOR


def test_a_reader_behind_a_norm_makes_up_for_the_width():
    # a norm of width 8 makes a vector of two dimensions twice as long as one of width 2
    assert width_scale(WIDENING) == 0.5
    normed = turn_part(Part.Q, MATRIX, WIDENING, normed=True)
    assert normed[:, [0, 7]].tolist() == [[0.5, 0.5], [0.0, 1.0]]
    assert normed[:, 1:7].abs().max() == 0
    plain = turn_part(Part.Q, MATRIX, WIDENING, normed=False)
    assert torch.equal(plain, 2 * normed)


def test_a_block_knows_which_readers_stand_behind_a_norm():
    parts = {Part.ATTENTION_NORM: VECTOR, Part.Q: MATRIX, Part.O: MATRIX, Part.GATE: MATRIX}
    turned = turn_block(parts, WIDENING)
    assert turned.keys() == parts.keys()
    assert torch.equal(turned[Part.Q], turn_part(Part.Q, MATRIX, WIDENING, normed=True))
    assert torch.equal(turned[Part.GATE], turn_part(Part.GATE, MATRIX, WIDENING, normed=False))


@pytest.mark.parametrize("part", [Part.ATTENTION_POST_NORM, Part.MLP_POST_NORM])
def test_the_gain_behind_a_block_keeps_its_length_if_it_is_constant(part):
    gain = turn_part(part, torch.tensor([3.0, 3.0]), WIDENING, normed=True)
    assert gain.tolist() == [1.5] * 8
    with pytest.raises(
        ValueError, match=rf"{part} is a norm on a block.* from 2 to 3: .*frame"
    ):
        turn_part(part, VECTOR, WIDENING, normed=True)


def rms(vector):
    return vector / vector.square().mean().sqrt()


@pytest.mark.parametrize("part", [Part.ATTENTION_POST_NORM, Part.FINAL_NORM])
def test_turned_norms_see_what_the_source_saw(part):
    # gain' * norm(T y) = T (gain * norm(y)); behind the final norm the head scales by s
    turn = as_map(random_turn(12, torch.Generator().manual_seed(1), centred=False)[:, :4])
    written, gain, scale = random(4), torch.full((4,), 1.7), 0.3
    expected = turn.forward_PK @ (gain * rms(written))
    if part is Part.FINAL_NORM:
        found = turn_final_norm(part, gain, turn, head_scale=scale) * scale
    else:
        found = turn_part(part, gain, turn, normed=True)
    torch.testing.assert_close(found * rms(turn.forward_PK @ written), expected)


def test_a_folded_final_gain_stays_one_and_its_bias_makes_up_for_the_heads_scale():
    ones = turn_final_norm(Part.FINAL_NORM, torch.ones(2), WIDENING, head_scale=0.5)
    assert ones[[0, 7]].tolist() == [1.0, 1.0]
    bias = turn_final_norm(Part.FINAL_NORM_BIAS, VECTOR, WIDENING, head_scale=0.5)
    assert bias.tolist() == [4.0, 0, 0, 0, 0, 0, 0, 6.0]


def test_a_final_gain_that_is_not_constant_becomes_the_nearest_diagonal():
    turn = as_map(random_turn(6, torch.Generator().manual_seed(1), centred=False))
    gain = random(6)
    found = turn_final_norm(Part.FINAL_NORM, gain, turn, head_scale=1.0)
    aim = turn.forward_PK * gain  # T diag(g)

    def error(diagonal):
        return float((diagonal[:, None] * turn.forward_PK - aim).norm())

    steps = 0.01 * torch.eye(6)
    assert all(error(found) < error(found + step) for step in (*steps, *-steps))
    permutation = as_map(torch.eye(6)[[2, 0, 1, 5, 4, 3]])
    exact = turn_final_norm(Part.FINAL_NORM, gain, permutation, head_scale=1.0)
    assert torch.equal(exact, gain[[2, 0, 1, 5, 4, 3]])


def test_reading_what_was_written_is_unchanged_by_a_turn_into_a_wider_stream():
    turn = as_map(
        random_turn(12, torch.Generator().manual_seed(1), centred=True, source_width=5)
    )
    reader, writer = random(3, 5), random(5, 4, seed=1)
    read = turn_part(Part.UP, reader, turn, normed=False)
    written = turn_part(Part.DOWN, writer, turn, normed=False)
    torch.testing.assert_close(read @ written, reader @ writer)


@pytest.mark.parametrize("part", sorted(READERS | WRITERS | {Part.EMBEDDING}))
def test_a_part_is_restricted_to_the_directions_the_source_reaches(part):
    vector = torch.arange(1.0, 9.0)
    pivot = vector if part.endswith("bias") else torch.outer(vector, vector)
    reached = torch.zeros(8)
    reached[[0, 7]] = 1
    axis = "i" if part in WRITERS else "j"  # a bias is a writer's
    expected = torch.einsum(f"ij,{axis}->ij", pivot.view(8, -1), reached).view_as(pivot)
    assert torch.equal(restrict_part(part, pivot, WIDENING), expected)


def test_what_no_direction_belongs_to_is_not_restricted():
    gain = torch.arange(8.0)
    for part in (Part.Q_BIAS, Part.Q_NORM, Part.FINAL_NORM, Part.MLP_NORM):
        assert restrict_part(part, gain, WIDENING) is gain
    assert restrict_part(Part.FINAL_NORM_BIAS, gain, WIDENING)[1:7].tolist() == [0.0] * 6
