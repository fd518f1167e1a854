"""Semantic bases: S = H (H^T H)^-1 of the head with the final norm's gain."""

import math

import pytest
import torch

from seme.alignment.semantic_bases import MAX_CONDITION, blocks_of, row_blocks, semantic_bases


def head_and_gain(n_tokens=40, width=8, seed=0):
    rng = torch.Generator().manual_seed(seed)
    head = torch.randn(n_tokens, width, generator=rng)
    return head, 0.5 + torch.rand(width, generator=rng)


def test_bases_of_a_diagonal_head_are_its_inverse():
    # H diag(g) = [[2, 0], [0, 8]]   ->   S = [[1/2, 0], [0, 1/8]], condition 8 / 2
    bases = semantic_bases(
        torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.tensor([1.0, 2.0]), block_rows=1
    )
    assert bases.rows(0, 2).tolist() == [[0.5, 0.0], [0.0, 0.125]]
    assert (bases.condition, bases.ridge) == (4.0, 0.0)


def test_bases_equal_the_transposed_pseudo_inverse():
    head, gain = head_and_gain()
    expected = torch.linalg.pinv(head.double() * gain.double()).T
    assert torch.allclose(
        semantic_bases(head, gain, block_rows=16).rows(0, 40), expected, atol=1e-12
    )


def test_condition_number_is_of_the_gained_head():
    head, gain = head_and_gain()
    expected = torch.linalg.cond(head.double() * gain.double())
    assert semantic_bases(head, gain, block_rows=40).condition == pytest.approx(
        float(expected), rel=1e-9
    )


@pytest.mark.parametrize("block_rows", [1, 7, 39, 1000])
def test_bases_do_not_depend_on_block_rows(block_rows):
    head, gain = head_and_gain()
    whole = semantic_bases(head, gain, block_rows=40).rows(0, 40)
    cut = semantic_bases(head, gain, block_rows=block_rows)
    assert torch.allclose(cut.rows(0, 40), whole, rtol=0, atol=1e-13)
    assert torch.equal(cut.rows(10, 12), cut.rows(0, 40)[10:12])


def test_row_blocks_cover_every_row_once():
    assert list(row_blocks(7, 3)) == [(0, 3), (3, 6), (6, 7)]


def test_blocks_of_follows_the_requested_rows():
    matrix = torch.arange(10).reshape(5, 2)
    blocks = [b.tolist() for b in blocks_of(matrix, torch.tensor([4, 0, 2]), 2)]
    assert blocks == [[[8, 9], [0, 1]], [[4, 5]]]
    assert [len(block) for block in blocks_of(matrix, None, 3)] == [3, 2]


@pytest.mark.parametrize("width", [8, 256, 300, 513])
def test_heads_of_any_width_are_inverted(width):
    head, gain = head_and_gain(n_tokens=2 * width, width=width)
    bases = semantic_bases(head, gain, block_rows=100)
    inverted = bases.rows(0, 2 * width).T @ (head.double() * gain.double())
    assert torch.allclose(inverted, torch.eye(width).double(), atol=1e-10)


@pytest.mark.parametrize("n_tokens", [40, 5])
def test_factors_multiply_to_the_bases(n_tokens):
    head, gain = head_and_gain(n_tokens)
    bases = semantic_bases(head, gain, block_rows=16)
    whitened = head.double() @ bases.whitener_DD * bases.spread_D
    assert torch.allclose(whitened @ bases.axes_DD.T, bases.rows(0, n_tokens), atol=1e-12)
    assert torch.allclose(whitened.norm(dim=1), bases.rows(0, n_tokens).norm(dim=1), atol=1e-12)
    seen = (head.double() @ bases.whitener_DD)[:, -min(n_tokens, 8) :]
    assert torch.allclose(seen.norm(dim=0), torch.ones(()).double(), atol=1e-6)


def test_unit_rows_have_norm_one_or_zero():
    head, gain = head_and_gain()
    head[3] = 0.0
    norms = semantic_bases(head, gain, block_rows=40).unit_rows(0, 40).norm(dim=1)
    assert norms[3] == 0.0
    assert torch.allclose(norms[norms > 0], torch.ones(39, dtype=torch.float64))


@pytest.mark.parametrize(("n_tokens", "scale"), [(5, 1.0), (40, 0.0), (40, 1e-7)])
def test_rank_deficient_head_gets_a_ridge(n_tokens, scale):
    head, gain = head_and_gain(n_tokens)
    head[:, 0] *= scale
    bases = semantic_bases(head, gain, block_rows=16)
    largest = torch.linalg.matrix_norm((head * gain).double(), ord=2) ** 2
    assert bases.ridge == pytest.approx(1e-8 * float(largest), rel=1e-6)
    assert MAX_CONDITION < bases.condition <= 2**26
    assert torch.isfinite(bases.rows(0, n_tokens)).all()


def test_ridge_is_added_to_the_gram_diagonal():
    # H = [[2, 0]]   ->   G = diag(4, 0), ridge 4e-8   ->   S = [[2 / (4 + 4e-8), 0]]
    bases = semantic_bases(torch.tensor([[2.0, 0.0]]), torch.ones(2), block_rows=1)
    assert bases.ridge == pytest.approx(4e-8, rel=1e-12)
    first, second = bases.rows(0, 1)[0].tolist()
    assert first == pytest.approx(2 / (4 + 4e-8), rel=1e-12)
    assert second == 0.0


def test_ill_conditioned_full_rank_head_gets_no_ridge():
    head, gain = head_and_gain()
    head[:, 0] *= 1e-5
    bases = semantic_bases(head, gain, block_rows=16)
    assert 1e4 < bases.condition < MAX_CONDITION
    assert bases.ridge == 0.0


def test_bfloat16_head_is_solved_in_float64_without_a_copy():
    head, gain = head_and_gain()
    bases = semantic_bases(head.bfloat16(), gain, block_rows=16)
    assert bases.head_VD.dtype == torch.bfloat16
    exact = semantic_bases(head.bfloat16().double(), gain, block_rows=16)
    assert torch.equal(bases.rows(0, 40), exact.rows(0, 40))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_head_is_refused(value):
    head, gain = head_and_gain()
    head[2, 1] = value
    with pytest.raises(ValueError, match=r"LM head \(40, 8\).*must be finite"):
        semantic_bases(head, gain, block_rows=16)


def test_zero_head_is_refused():
    with pytest.raises(ValueError, match="no semantic bases: all of H diag"):
        semantic_bases(torch.zeros(40, 8), torch.ones(8), block_rows=16)
