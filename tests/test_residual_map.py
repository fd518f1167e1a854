"""Residual maps between models of any two widths."""

import math

import pytest
import torch

from seme.alignment.residual_map import (
    centred_polar_factor,
    distance_from_identity,
    embedding_operator,
    least_squares,
    polar_factor,
    residual_map,
    residual_operator,
)
from seme.alignment.semantic_bases import semantic_bases

WIDTH, TOKENS = 8, 64


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(width=WIDTH, seed=1):
    return torch.linalg.qr(random(width, width, seed=seed).double())[0]


def bases(head, gain=None):
    gain = torch.ones(head.shape[1]) if gain is None else gain
    return semantic_bases(head, gain, block_rows=16)


def operator(pivot, source, block_rows=16):
    return residual_operator(pivot, source, block_rows=block_rows)


def mapped(pivot, source, projection="orthogonal", *, centred=False):
    return residual_map(
        operator(bases(pivot), bases(source)),
        projection=projection,
        centred=centred,
        n_anchors=len(pivot),
        pivot_PP=operator(bases(pivot), bases(pivot)),
    )


def ill_conditioned(head, condition):
    """Scale the columns of a head, which its rotation then hides, to a condition number."""
    scale = torch.logspace(0, -math.log10(condition), head.shape[1])
    return (head * scale).double() @ rotation(head.shape[1], seed=9)


@pytest.mark.parametrize("block_rows", [1, 5, 1000])
@pytest.mark.parametrize("source_width", [5, 8, 11])
def test_residual_operator_is_the_papers_sum_over_tokens(source_width, block_rows):
    pivot, source = bases(random(TOKENS, WIDTH)), bases(random(TOKENS, source_width, seed=5))
    expected = torch.zeros(WIDTH, source_width, dtype=torch.float64)
    for to, of in zip(pivot.rows(0, TOKENS), source.rows(0, TOKENS), strict=True):
        expected += torch.outer(to, of) / (to.norm() * of.norm())
    actual = operator(pivot, source, block_rows=block_rows)
    assert actual.dtype == torch.float64
    assert torch.allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("condition", [1e2, 1e3, 5e3, 2e4, 1e5])
def test_rotation_is_recovered_at_any_head_condition(condition):
    head, turn = ill_conditioned(random(600, WIDTH), condition), rotation()
    # the source's representations are turn @ r, so that its head is head @ turn.T
    actual = mapped(head, head @ turn.T)
    assert torch.allclose(actual.forward_PK.double(), turn.T, atol=1e-5)
    assert torch.allclose(actual.backward_KP.double(), turn, atol=1e-5)


@pytest.mark.parametrize("condition", [1e2, 5e3])
def test_float32_products_approximate_the_float64_operator(condition):
    pivot = bases(ill_conditioned(random(600, WIDTH), condition))
    source = bases(ill_conditioned(random(600, WIDTH, seed=5), condition))
    exact = pivot.unit_rows(0, 600).T @ source.unit_rows(0, 600)
    error = torch.linalg.norm(operator(pivot, source) - exact) / torch.linalg.norm(exact)
    assert 1e-9 < error < 3e-4  # float64 products come to 1e-12


def test_ill_conditioned_head_uses_float64():
    pivot = bases(ill_conditioned(random(600, WIDTH), 3e4))
    exact = pivot.unit_rows(0, 600).T @ pivot.unit_rows(0, 600)
    error = torch.linalg.norm(operator(pivot, pivot) - exact) / torch.linalg.norm(exact)
    assert error < 1e-10


def test_rotation_is_recovered_with_a_folded_gain():
    head, gain, turn = random(TOKENS, WIDTH), 0.5 + random(WIDTH).abs(), rotation()
    pivot, source = bases(head, gain), bases((head * gain).double() @ turn.T)
    actual = residual_map(
        operator(pivot, source), projection="orthogonal", centred=False, n_anchors=TOKENS
    )
    assert torch.allclose(actual.forward_PK.double(), turn.T, atol=1e-5)


@pytest.mark.parametrize("projection", ["orthogonal", "least_squares"])
@pytest.mark.parametrize("n_tokens", [TOKENS, 5])
def test_map_of_the_pivot_to_itself_is_the_identity(projection, n_tokens):
    # with fewer tokens than dimensions, directions without a token stay as they are
    actual = mapped(random(n_tokens, WIDTH), random(n_tokens, WIDTH), projection)
    assert actual.distance < 1e-6
    assert actual.similarity == pytest.approx(1.0, abs=1e-6)
    assert actual.support_PP is None


def test_fewer_tokens_than_dimensions_still_align_their_span():
    head, turn = random(5, WIDTH).double(), rotation()
    forward = mapped(head, head @ turn.T).forward_PK.double()
    assert torch.allclose(forward @ forward.T, torch.eye(WIDTH).double(), atol=1e-6)
    assert torch.allclose(head @ turn.T @ forward.T, head, atol=1e-5)


def test_zero_padding_rows_and_bfloat16_are_accepted():
    head = random(TOKENS, WIDTH).bfloat16()
    head[50:] = 0
    assert mapped(head, head.clone()).distance < 1e-6


def test_rotation_is_recovered_from_reordered_shared_tokens():
    # the source has 20 tokens of its own; bases of the shared ones only are comparable
    head, turn, order = random(TOKENS, WIDTH).double(), rotation(), torch.randperm(TOKENS)
    own = random(20, WIDTH, seed=7).double()
    source_head = torch.cat([own, head[order] @ turn.T])
    rows = torch.arange(TOKENS), 20 + order.argsort()
    pivot, source = bases(head[rows[0]]), bases(source_head[rows[1]])
    actual = residual_map(
        operator(pivot, source), projection="orthogonal", centred=False, n_anchors=TOKENS
    )
    assert torch.allclose(actual.forward_PK.double(), turn.T, atol=1e-5)


def test_embedding_of_a_narrower_source_is_recovered():
    # the pivot's head is the source's, put into five of its eight dimensions
    narrow, place = random(TOKENS, 5).double(), rotation()[:, :5]
    actual = mapped(narrow @ place.T, narrow)
    assert torch.allclose(actual.forward_PK.double(), place, atol=1e-5)
    assert torch.allclose(actual.support_PP.double(), place @ place.T, atol=1e-5)
    assert actual.similarity == pytest.approx(1.0, abs=1e-5)


def test_map_of_a_narrower_source_is_an_isometry():
    actual = mapped(random(TOKENS, WIDTH), random(TOKENS, 5, seed=5))
    assert torch.allclose(actual.forward_PK.T @ actual.forward_PK, torch.eye(5), atol=1e-6)
    assert torch.equal(actual.backward_KP, actual.forward_PK.T)
    assert torch.allclose(actual.support_PP, actual.forward_PK @ actual.backward_KP, atol=1e-6)
    assert actual.distance is None


def test_map_of_a_wider_source_has_orthonormal_rows():
    actual = mapped(random(TOKENS, WIDTH), random(TOKENS, 11, seed=5))
    assert torch.allclose(actual.forward_PK @ actual.forward_PK.T, torch.eye(WIDTH), atol=1e-6)
    assert (actual.support_PP, actual.distance) == (None, None)


@pytest.mark.parametrize("projection", ["cosine", "least_squares"])
def test_support_of_a_non_orthogonal_map_is_its_range(projection):
    actual = mapped(random(TOKENS, WIDTH), random(TOKENS, 5, seed=5), projection)
    axes = torch.linalg.qr(actual.forward_PK)[0]
    assert torch.allclose(actual.support_PP, axes @ axes.T, atol=1e-5)
    assert torch.allclose(actual.backward_KP @ actual.forward_PK, torch.eye(5), atol=1e-5)


def test_similarity_is_the_mean_cosine_after_the_map():
    pivot, source = bases(random(TOKENS, WIDTH)), bases(random(TOKENS, 5, seed=5))
    actual = mapped(random(TOKENS, WIDTH), random(TOKENS, 5, seed=5))
    turned = source.unit_rows(0, TOKENS) @ actual.forward_PK.double().T
    cosines = torch.nn.functional.cosine_similarity(pivot.unit_rows(0, TOKENS), turned)
    assert actual.similarity == pytest.approx(float(cosines.mean()), abs=1e-6)


def test_cosine_projection_has_orthogonal_norm_but_is_not_the_identity():
    actual = mapped(random(TOKENS, WIDTH), random(TOKENS, WIDTH), "cosine")
    assert float(actual.forward_PK.norm()) == pytest.approx(WIDTH**0.5, rel=1e-6)
    literal = operator(bases(random(TOKENS, WIDTH)), bases(random(TOKENS, WIDTH))).float()
    ratio = actual.forward_PK / literal
    assert torch.allclose(ratio, ratio[0, 0], rtol=1e-3)
    assert actual.distance > 0.05


def test_cosine_projection_between_widths_has_the_smaller_norm():
    actual = mapped(random(TOKENS, WIDTH), random(TOKENS, 5, seed=5), "cosine")
    assert float(actual.forward_PK.norm()) == pytest.approx(5**0.5, rel=1e-6)


def test_least_squares_map_equals_lstsq_on_unit_rows():
    pivot, source = bases(random(TOKENS, WIDTH)), bases(random(TOKENS, 5, seed=5))
    expected = torch.linalg.lstsq(pivot.unit_rows(0, TOKENS), source.unit_rows(0, TOKENS))
    actual = mapped(random(TOKENS, WIDTH), random(TOKENS, 5, seed=5), "least_squares")
    assert torch.allclose(actual.forward_PK.double(), expected.solution, atol=1e-5)


def test_centred_map_commutes_with_mean_subtraction():
    actual = mapped(random(TOKENS, WIDTH), random(TOKENS, 5, seed=5), centred=True)
    r = random(5, seed=6)
    assert torch.allclose(
        actual.forward_PK @ (r - r.mean()),
        actual.forward_PK @ r - (actual.forward_PK @ r).mean(),
        atol=1e-6,
    )
    assert mapped(random(TOKENS, WIDTH), random(TOKENS, WIDTH), centred=True).distance < 1e-6


def test_embedding_operator_sums_unit_rows():
    # rows (3, 4) / 5 with (2, 0) / 2, and a row of zeros that counts for nothing
    actual = embedding_operator(
        torch.tensor([[3.0, 4.0], [0.0, 0.0]]),
        torch.tensor([[9.0, 9.0], [2.0, 0.0]]),
        torch.tensor([0, 1]),
        torch.tensor([1, 0]),
        block_rows=1,
    )
    assert torch.allclose(actual, torch.tensor([[0.6, 0.0], [0.8, 0.0]]).double(), atol=1e-15)


def test_heads_and_embeddings_together_recover_the_rotation():
    head, embedding, turn = random(TOKENS, WIDTH), random(TOKENS, WIDTH, seed=2), rotation()
    turned = embedding.double() @ turn.T
    both = operator(bases(head), bases(head.double() @ turn.T)) + embedding_operator(
        embedding, turned, None, None, block_rows=16
    )
    actual = residual_map(both, projection="orthogonal", centred=False, n_anchors=2 * TOKENS)
    assert torch.allclose(actual.forward_PK.double(), turn.T, atol=1e-5)
    assert actual.similarity == pytest.approx(1.0, abs=1e-5)


def test_non_finite_embeddings_are_refused():
    with pytest.raises(ValueError, match=r"embeddings \(2, 1\) of the pivot and \(2, 3\) of"):
        embedding_operator(
            torch.tensor([[1.0], [math.nan]]), torch.ones(2, 3), None, None, block_rows=16
        )


def test_different_token_counts_are_refused():
    pivot, source = random(48, WIDTH), random(40, WIDTH)
    with pytest.raises(ValueError, match="got 48 of the pivot and 40 of the source"):
        operator(bases(pivot), bases(source))
    with pytest.raises(ValueError, match="got 3 of the pivot and 40 of the source"):
        embedding_operator(pivot, source, torch.arange(3), None, block_rows=16)


def identity(width=WIDTH):
    return torch.eye(width, dtype=torch.float64)


def subtract_mean(width):
    return identity(width) - 1 / width


def test_polar_factor_of_a_scaled_quarter_turn():
    # [[0, -2], [3, 0]] = [[0, -1], [1, 0]] @ diag(3, 2)
    actual = polar_factor(torch.tensor([[0.0, -2.0], [3.0, 0.0]]))
    assert torch.allclose(actual, torch.tensor([[0.0, -1.0], [1.0, 0.0]]), atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (8, 5), (5, 8)])
def test_polar_factor_is_semi_orthogonal_with_a_symmetric_remainder(shape):
    operator = random(*shape).double()
    actual = polar_factor(operator)
    small = actual.T @ actual if shape[0] >= shape[1] else actual @ actual.T
    assert torch.allclose(small, identity(min(shape)), atol=1e-12)
    rest = actual.T @ operator
    assert torch.allclose(rest, rest.T, atol=1e-12)
    assert torch.linalg.eigvalsh(rest).min() > -1e-12


@pytest.mark.parametrize("condition", [1.0, 9.0, 900.0, 1100.0, 1e8])
@pytest.mark.parametrize("shape", [(8, 8), (8, 5), (5, 8)])
def test_polar_factor_equals_the_svd_at_any_condition(shape, condition):
    left, right = (rotation(n, seed=n)[:, : min(shape)] for n in shape)
    singular = torch.logspace(0, -math.log10(condition), min(shape), dtype=torch.float64)
    actual = polar_factor((left * singular) @ right.T)
    assert torch.allclose(actual, left @ right.T, atol=1e-14 * max(condition, 1e4) ** 1.1)
    small = actual.T @ actual if shape[0] >= shape[1] else actual @ actual.T
    assert torch.allclose(small, identity(min(shape)), atol=1e-9)


def test_polar_factor_is_the_nearest_orthogonal_matrix():
    operator = random(WIDTH, WIDTH).double()
    nearest = torch.linalg.norm(polar_factor(operator) - operator)
    others = [torch.linalg.norm(rotation(seed=n) - operator) for n in range(2, 20)]
    assert nearest < min(others)


@pytest.mark.parametrize("n_seen", [0, 1, 5, 7])
def test_polar_factor_is_the_identity_on_the_null_space(n_seen):
    seen = random(WIDTH, n_seen).double()
    assert torch.allclose(polar_factor(seen @ seen.T), identity(), atol=1e-12)


def test_null_space_rotates_as_little_as_possible():
    # axis 0 goes to axis 1, so that axis 1 cannot stay; the nearest turn takes it to axis 0
    operator = torch.zeros(3, 3).double()
    operator[1, 0] = 2.0
    expected = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).double()
    actual = polar_factor(operator).abs()
    assert torch.allclose(actual, expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
def test_null_space_between_widths_keeps_its_axes(shape):
    operator = torch.zeros(*shape).double()
    operator[0, 0] = operator[1, 1] = 1.0
    assert torch.allclose(polar_factor(operator), torch.eye(*shape).double(), atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 8), (8, 5), (5, 8)])
def test_centred_polar_factor_fixes_ones_and_commutes_with_centring(shape):
    actual = centred_polar_factor(random(*shape).double())
    ones = [torch.ones(width).double() / width**0.5 for width in shape]
    assert torch.allclose(actual @ ones[1], ones[0], atol=1e-12)
    assert torch.allclose(
        actual @ subtract_mean(shape[1]), subtract_mean(shape[0]) @ actual, atol=1e-12
    )
    small = actual.T @ actual if shape[0] >= shape[1] else actual @ actual.T
    assert torch.allclose(small, identity(min(shape)), atol=1e-12)


def test_centred_polar_factor_is_that_of_the_centred_operator():
    operator = random(WIDTH, WIDTH).double()
    centred = subtract_mean(WIDTH) @ operator @ subtract_mean(WIDTH)
    expected = polar_factor(centred + 1 / WIDTH)
    assert torch.allclose(centred_polar_factor(operator), expected, atol=1e-10)


def test_centred_polar_factor_of_a_symmetric_operator_is_the_identity():
    operator = random(20, WIDTH).double()
    assert torch.allclose(centred_polar_factor(operator.T @ operator), identity(), atol=1e-12)


def test_least_squares_equals_lstsq():
    pivot, source = random(40, WIDTH).double(), random(40, 5, seed=2).double()
    expected = torch.linalg.lstsq(pivot, source).solution
    actual = least_squares(pivot.T @ pivot, pivot.T @ source)
    assert torch.allclose(actual, expected, atol=1e-10)


def test_least_squares_is_the_identity_on_the_null_space():
    few = random(3, WIDTH).double()
    assert torch.allclose(least_squares(few.T @ few, few.T @ few), identity(), atol=1e-10)


@pytest.mark.parametrize(
    ("transform", "distance"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], 0.0),
        ([[0.0, -1.0], [1.0, 0.0]], 2**0.5),  # two axes, each moved by sqrt(2)
        ([[-1.0, 0.0], [0.0, 1.0]], 2**0.5),  # one axis moved by 2, the other not
    ],
)
def test_distance_from_identity_is_the_rms_displacement(transform, distance):
    assert distance_from_identity(torch.tensor(transform)) == pytest.approx(distance)
