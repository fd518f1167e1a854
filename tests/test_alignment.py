"""Maps between residual frames, and how they act on weights."""

from typing import get_args

import pytest
import torch

from seme.alignment import (
    Projection,
    ResidualMap,
    align_tensor,
    cross_gram,
    distance_from_identity,
    polar_factor,
    residual_map,
)
from seme.bases import semantic_bases
from seme.types import Role

WIDTH, TOKENS = 8, 48


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def rotation(width=WIDTH, seed=1):
    return torch.linalg.qr(random(width, width, seed=seed))[0]


def bases(head):
    return semantic_bases(head, torch.ones(head.shape[1]), block_rows=16)


def mapped(pivot, source, projection="orthogonal", block_rows=16):
    return residual_map(
        bases(pivot), bases(source), projection=projection, block_rows=block_rows
    )


@pytest.mark.parametrize("projection", ["orthogonal", "least_squares"])
def test_a_rotated_source_is_turned_back(projection):
    head, turn = random(TOKENS, WIDTH), rotation()
    # the source's representations are turn @ r, so that its head is head @ turn.T
    found = mapped(head, head @ turn.T, projection)
    assert torch.allclose(found.forward_PK.double(), turn.T, atol=1e-6)
    assert torch.allclose(found.backward_KP.double(), turn, atol=1e-6)


@pytest.mark.parametrize("projection", ["orthogonal", "least_squares"])
def test_the_pivot_is_in_its_own_frame(projection):
    assert mapped(random(TOKENS, WIDTH), random(TOKENS, WIDTH), projection).distance < 1e-12


def test_the_literal_operator_is_not_the_identity_even_for_the_pivot_itself():
    assert mapped(random(TOKENS, WIDTH), random(TOKENS, WIDTH), "cosine").distance > 0.05


def test_the_literal_operator_is_the_sum_over_tokens_at_the_norm_of_an_orthogonal_matrix():
    pivot, source = bases(random(TOKENS, WIDTH)), bases(random(TOKENS, WIDTH, seed=5))
    forward = residual_map(pivot, source, projection="cosine", block_rows=16).forward_PK
    r = random(WIDTH, seed=6)
    paper = torch.zeros(WIDTH, dtype=torch.float64)
    for to, of in zip(pivot.unit_rows(0, TOKENS), source.unit_rows(0, TOKENS), strict=True):
        paper += (of @ r) / r.norm() * to
    cosine = torch.nn.functional.cosine_similarity(forward.double() @ r, paper, dim=0)
    assert float(cosine) == pytest.approx(1.0, abs=1e-9)
    assert float(forward.norm()) == pytest.approx(WIDTH**0.5, rel=1e-6)


def test_least_squares_solves_for_the_rows_of_the_bases():
    pivot, source = bases(random(TOKENS, WIDTH)), bases(random(TOKENS, WIDTH, seed=5))
    expected = torch.linalg.lstsq(pivot.unit_rows(0, TOKENS), source.unit_rows(0, TOKENS))
    found = residual_map(pivot, source, projection="least_squares", block_rows=16)
    assert torch.allclose(found.forward_PK.double(), expected.solution, atol=1e-6)
    identity = torch.eye(WIDTH)
    assert torch.allclose(found.forward_PK @ found.backward_KP, identity, atol=1e-4)


def test_the_orthogonal_map_of_any_source_keeps_lengths():
    forward = mapped(random(TOKENS, WIDTH), random(TOKENS, WIDTH, seed=5)).forward_PK
    assert torch.allclose(forward @ forward.T, torch.eye(WIDTH), atol=1e-6)


def test_a_polar_factor_is_worked_out_by_hand():
    # [[0, -2], [3, 0]] = [[0, -1], [1, 0]] @ diag(3, 2)
    found = polar_factor(torch.tensor([[0.0, -2.0], [3.0, 0.0]]))
    assert torch.allclose(found, torch.tensor([[0.0, -1.0], [1.0, 0.0]]), atol=1e-6)


def test_a_direction_no_token_has_stays_as_it_is():
    # fewer tokens than dimensions: the frame is known in 5 of 8 directions only
    head = random(5, WIDTH)
    assert mapped(head, head).distance < 1e-6
    assert mapped(head, head, "least_squares").distance < 1e-6


def test_directions_without_a_token_do_not_disturb_those_with_one():
    head, turn = random(5, WIDTH), rotation()
    forward = mapped(head, head @ turn.T).forward_PK.double()
    assert torch.allclose(forward @ forward.T, torch.eye(WIDTH).double(), atol=1e-6)
    assert torch.allclose(head @ turn.T @ forward.T, head, atol=1e-5)


@pytest.mark.parametrize("projection", get_args(Projection))
@pytest.mark.parametrize("block_rows", [1, 5, 1000])
def test_the_size_of_row_blocks_does_not_matter(projection, block_rows):
    heads = random(TOKENS, WIDTH), random(TOKENS, WIDTH, seed=5)
    whole, cut = mapped(*heads, projection), mapped(*heads, projection, block_rows)
    assert torch.allclose(cut.forward_PK, whole.forward_PK, atol=1e-6)
    assert cut.distance == pytest.approx(whole.distance, abs=1e-10)


@pytest.mark.parametrize("projection", get_args(Projection))
def test_a_map_has_the_same_bits_on_each_run(projection):
    heads = random(TOKENS, WIDTH), random(TOKENS, WIDTH, seed=5)
    first, second = mapped(*heads, projection), mapped(*heads, projection)
    assert torch.equal(first.forward_PK, second.forward_PK)
    assert torch.equal(first.backward_KP, second.backward_KP)


def test_the_distance_of_a_quarter_turn_of_the_plane_is_the_root_of_two():
    # T - I = [[-1, -1], [1, -1]], Frobenius norm 2, over sqrt(2)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    assert distance_from_identity(quarter) == pytest.approx(2**0.5)


SHEAR = ResidualMap(
    forward_PK=torch.tensor([[1.0, 2.0], [0.0, 1.0]]),
    backward_KP=torch.tensor([[1.0, -2.0], [0.0, 1.0]]),
    distance=2**0.5,
)
GAIN = torch.tensor([3.0, 5.0])
MATRIX = [[1.0, 1.0], [0.0, 2.0]]


@pytest.mark.parametrize(
    ("role", "gain", "expected"),
    [
        (Role.EMBEDDING, None, [[3.0, 1.0], [4.0, 2.0]]),  # W T^t
        (Role.WRITER, None, [[1.0, 5.0], [0.0, 2.0]]),  # T W
        (Role.READER, GAIN, [[3.0, -1.0], [0.0, 10.0]]),  # W diag(g) T^-1
        (Role.HEAD, GAIN, [[3.0, -1.0], [0.0, 10.0]]),
    ],
)
def test_a_matrix_is_mapped_by_its_role(role, gain, expected):
    assert align_tensor(torch.tensor(MATRIX), role, SHEAR, gain).tolist() == expected


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (Role.WRITER_BIAS, [8.0, 3.0]),  # T b
        (Role.INNER_BIAS, [2.0, 3.0]),
        (Role.INNER_NORM, [2.0, 3.0]),
        (Role.NORM, [1.0, 1.0]),
    ],
)
def test_a_vector_is_mapped_by_its_role(role, expected):
    assert align_tensor(torch.tensor([2.0, 3.0]), role, SHEAR, None).tolist() == expected


def test_without_a_map_gains_are_folded_and_nothing_else_happens():
    weight = torch.tensor(MATRIX)
    assert align_tensor(weight, Role.READER, None, GAIN).tolist() == [[3.0, 5.0], [0.0, 10.0]]
    assert align_tensor(weight, Role.WRITER, None, None).tolist() == MATRIX
    assert align_tensor(GAIN, Role.NORM, None, None).tolist() == [1.0, 1.0]
    assert weight.tolist() == MATRIX


def test_heads_with_different_numbers_of_tokens_are_refused():
    with pytest.raises(ValueError, match="got 48 of the pivot and 40 of the source"):
        cross_gram(bases(random(48, WIDTH)), bases(random(40, WIDTH)), block_rows=16)


def test_an_unknown_projection_is_refused_with_the_choices():
    with pytest.raises(
        ValueError, match="one of cosine, least_squares, orthogonal, got 'polar'"
    ):
        mapped(random(TOKENS, WIDTH), random(TOKENS, WIDTH), "polar")
