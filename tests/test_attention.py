"""Attention heads: matching by circuits, inner bases, unchanged functions."""

from dataclasses import replace

import pytest
import torch

from seme.alignment.attention import (
    apply_heads,
    head_similarity,
    match_heads,
    query_key_basis,
    restrict_heads,
    value_output_basis,
)
from seme.alignment.circuits import pair_frequencies
from tests.attention_layers import (
    WIDTH,
    assert_same_function,
    assert_same_weights,
    disguise,
    frequencies,
    random_heads,
)


@pytest.mark.parametrize(
    "rotary", [frequencies(8), frequencies(4), ()], ids=["rope", "partial rope", "learned"]
)
@pytest.mark.parametrize("bias", [True, False])
def test_permuted_and_rotated_copy_is_recovered(rotary, bias):
    pivot = random_heads(1, rotary=rotary, bias=bias)
    copy = disguise(pivot)
    assert_same_function(pivot, copy)
    match = match_heads(pivot, copy, rotate_inner=True)
    assert match.group_index.tolist() == [1, 0]
    assert match.head_index.tolist() == [2, 3, 1, 0]
    assert match.exact
    torch.testing.assert_close(match.similarity, torch.ones(2))
    assert_same_weights(apply_heads(match, copy), pivot)


def test_permuted_copy_is_recovered_without_rotating_normed_queries_and_keys():
    pivot = random_heads(1)
    copy = disguise(pivot, rotate_inner=False)
    match = match_heads(pivot, copy, rotate_inner=False)
    assert_same_weights(apply_heads(match, copy), pivot)


@pytest.mark.parametrize("rotate_inner", [True, False])
@pytest.mark.parametrize(
    "rotary", [frequencies(8), frequencies(4), ()], ids=["rope", "partial rope", "learned"]
)
@pytest.mark.parametrize(("n_heads", "n_kv"), [(4, 4), (4, 2), (4, 1)])
def test_matched_source_computes_the_same_function(rotary, n_heads, n_kv, rotate_inner):
    pivot, source = (random_heads(s, n_heads=n_heads, n_kv=n_kv, rotary=rotary) for s in (1, 2))
    match = match_heads(pivot, source, rotate_inner=rotate_inner)
    assert_same_function(apply_heads(match, source), source)


def test_matching_reduces_the_distance_to_the_pivot():
    pivot, source = random_heads(1), random_heads(2)
    aligned = apply_heads(match_heads(pivot, source, rotate_inner=True), source)
    for name in ("q", "k", "v", "o"):
        own = getattr(pivot, name)
        assert torch.dist(getattr(aligned, name), own) < torch.dist(getattr(source, name), own)


def test_output_and_score_circuits_have_equal_weight():
    heads = random_heads(1, bias=False)
    pairs = pair_frequencies(heads.frequencies, heads.frequencies)
    for change in ({"o": -heads.o}, {"q": -heads.q}):
        similarity = head_similarity(heads, replace(heads, **change), pairs)
        torch.testing.assert_close(similarity.diagonal(), torch.zeros(4))


@pytest.mark.parametrize("rotary", [None, ()], ids=["rope", "learned"])
def test_narrower_source_keeps_its_function_in_more_and_wider_heads(rotary):
    pivot = random_heads(1, n_heads=8, n_kv=4, head_dim=16, rotary=rotary)
    source = random_heads(2, n_heads=4, n_kv=2, head_dim=8, rotary=rotary)
    match = match_heads(pivot, source, rotate_inner=True)
    placed = apply_heads(match, source)
    assert (placed.n_heads, placed.n_kv, placed.head_dim) == (8, 4, 16)
    assert match.q_scale == pytest.approx(2**0.5)
    assert match.exact
    assert_same_function(placed, source)


def test_custom_attention_scale_moves_into_the_queries():
    pivot, source = random_heads(1, scale=0.5), random_heads(2, scale=0.2)
    match = match_heads(pivot, source, rotate_inner=True)
    assert match.q_scale == pytest.approx(0.4)
    assert_same_function(apply_heads(match, source), source)


def test_missing_query_heads_leave_the_inner_basis_unchanged():
    # six heads in two groups; the copy lacks the last head of each group
    pivot = random_heads(1, n_heads=6, n_kv=2)
    copy = disguise(pivot, inside=((0, 1, 2), (0, 1, 2)))
    kept_rows = torch.tensor([0, 1, 3, 4]).repeat_interleave(8) * 8 + torch.arange(8).repeat(4)
    fewer = replace(
        copy,
        q=copy.q[kept_rows],
        q_bias=copy.q_bias[kept_rows],
        o=copy.o[:, kept_rows],
        n_heads=4,
    )
    actual = apply_heads(match_heads(pivot, fewer, rotate_inner=True), fewer)
    torch.testing.assert_close(actual.k, pivot.k, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(actual.v, pivot.v, rtol=1e-5, atol=2e-5)


def test_unmatched_groups_have_zero_bases():
    match = match_heads(random_heads(1), random_heads(2, n_heads=2, n_kv=1), rotate_inner=True)
    empty = match.group_index < 0
    assert empty.sum() == 1
    assert not match.qk[empty].any()
    assert not match.vo[empty].any()


def test_normed_heads_get_identity_query_key_bases():
    # the source's frequencies in reverse: a match by frequency would move the pairs
    pivot, source = random_heads(1), random_heads(2, rotary=frequencies(8)[::-1])
    match = match_heads(pivot, source, rotate_inner=False)
    assert torch.equal(match.qk, torch.eye(8).expand(2, 8, 8))
    assert not match.exact


def test_surplus_pivot_query_heads_are_unmatched_and_zero():
    pivot, source = random_heads(1, n_heads=6, n_kv=2), random_heads(2, n_heads=4, n_kv=2)
    match = match_heads(pivot, source, rotate_inner=True)
    assert sorted(match.head_index.tolist()) == [-1, -1, 0, 1, 2, 3]
    placed = apply_heads(match, source)
    empty = (match.head_index < 0).repeat_interleave(8)
    assert not placed.q[empty].any()
    assert not placed.o[:, empty].any()
    assert_same_function(placed, source)


def test_most_similar_source_group_is_matched():
    pivot = random_heads(1, n_heads=1, n_kv=1)
    others = random_heads(2, n_heads=2, n_kv=2)
    source = replace(
        others,
        **{n: torch.cat([getattr(others, n)[:8], getattr(pivot, n)]) for n in ("q", "k", "v")},
        o=torch.cat([others.o[:, :8], pivot.o], dim=1),
    )
    match = match_heads(pivot, replace(source, q_bias=None, k_bias=None), rotate_inner=True)
    assert match.group_index.tolist() == [1]
    assert match.head_index.tolist() == [1]


def test_narrower_head_fills_only_the_rows_of_its_frequencies():
    # one source group of one head of 4 dimensions: pairs 0 and 1 match pairs 0 and 2 of 8
    pivot = random_heads(1, n_heads=4, n_kv=2)
    source = random_heads(2, n_heads=1, n_kv=1, head_dim=4)
    match = match_heads(pivot, source, rotate_inner=True)
    group, head = (index.tolist().index(0) for index in (match.group_index, match.head_index))
    for heads in (apply_heads(match, source), restrict_heads(match, pivot)):
        filled = heads.q.any(dim=1).nonzero()[:, 0].tolist()
        assert filled == [8 * head + i for i in (0, 2, 4, 6)]
        filled = heads.k.any(dim=1).nonzero()[:, 0].tolist()
        assert filled == [8 * group + i for i in (0, 2, 4, 6)]


def test_restriction_of_a_full_match_is_the_identity():
    pivot, source = random_heads(1), random_heads(2)
    match = match_heads(pivot, source, rotate_inner=True)
    assert_same_weights(restrict_heads(match, pivot), pivot)


def test_restriction_is_a_projection_onto_matched_units():
    pivot = random_heads(1, n_heads=6, n_kv=2, head_dim=16)
    source = random_heads(2, n_heads=2, n_kv=1, head_dim=8)
    match = match_heads(pivot, source, rotate_inner=True)
    placed, kept = apply_heads(match, source), restrict_heads(match, pivot)
    assert_same_weights(restrict_heads(match, placed), placed)
    assert_same_weights(restrict_heads(match, kept), kept)
    for rows, own in ((kept.q, pivot.q), (kept.k, pivot.k)):
        torch.testing.assert_close(rows[rows.any(dim=1)], own[rows.any(dim=1)])
    assert torch.linalg.matrix_rank(kept.v) == 8


def test_different_rotary_bases_match_in_order_and_are_not_exact():
    pivot = random_heads(1)
    source = random_heads(2, rotary=frequencies(8, theta=500_000.0))
    match = match_heads(pivot, source, rotate_inner=True)
    assert not match.exact
    assert apply_heads(match, source).frequencies == pivot.frequencies


def test_zero_layers_match_without_nan():
    pivot = random_heads(1)
    empty = replace(
        pivot, **{n: torch.zeros_like(getattr(pivot, n)) for n in ("q", "k", "v", "o")}
    )
    match = match_heads(
        pivot, replace(empty, q_bias=None, k_bias=None, v_bias=None), rotate_inner=True
    )
    assert match.similarity.tolist() == [0.0, 0.0]
    assert sorted(match.group_index.tolist()) == [0, 1]
    assert match.qk.isfinite().all()
    assert match.vo.isfinite().all()


def test_matching_is_deterministic_and_leaves_inputs_unchanged():
    pivot, source = random_heads(1), random_heads(2)
    before = source.q.clone(), pivot.v.clone()
    first, second = (match_heads(pivot, source, rotate_inner=True) for _ in range(2))
    apply_heads(first, source)
    assert torch.equal(source.q, before[0])
    assert torch.equal(pivot.v, before[1])
    assert torch.equal(first.qk, second.qk)
    assert torch.equal(first.vo, second.vo)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"head_dim": 16}, r"\(8, 4\) of the pivot and \(16, 8\) of the source"),
        ({"rotary": frequencies(4)}, r"\(8, 4\) of the pivot and \(8, 2\) of the source"),
    ],
)
def test_normed_heads_refuse_other_head_dims_or_pairs(change, got):
    with pytest.raises(ValueError, match=f"pairs must be equal, got {got}"):
        match_heads(random_heads(1), random_heads(2, **change), rotate_inner=False)


def test_layers_of_different_widths_are_refused():
    with pytest.raises(ValueError, match=r"got width 24 of the pivot and 16 of the source"):
        match_heads(random_heads(1), random_heads(2, width=16), rotate_inner=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_kv": 3}, "n_heads must be a multiple of n_kv, got 4 and 3"),
        ({"k": torch.zeros(8, WIDTH)}, r"k must be \(16, 24\), got \(8, 24\)"),
        ({"frequencies": (1.0,) * 5}, "8 dimensions has at most 4 rotary pairs, got 5"),
    ],
)
def test_inconsistent_head_shapes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(random_heads(1), **change)


def random_rows(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_value_output_basis_of_two_swapped_coordinates():
    # the source has the pivot's two coordinates swapped, one negated: v = R v_source
    values = torch.eye(2)
    source = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    basis = value_output_basis(values, values[None], source, source[None])
    torch.testing.assert_close(basis, torch.tensor([[0.0, -1.0], [1.0, 0.0]]))


def test_basis_into_a_wider_head_has_orthonormal_columns():
    args = random_rows(1, 6, 9), random_rows(2, 2, 6, 9)
    basis = value_output_basis(*args, random_rows(3, 4, 9), random_rows(4, 2, 4, 9))
    assert basis.shape == (6, 4)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4))


def test_value_output_basis_is_optimal():
    values, outputs = random_rows(1, 3, 9), random_rows(2, 2, 3, 9)
    other_values, other_outputs = random_rows(3, 3, 9), random_rows(4, 2, 3, 9)

    def fit(basis):
        v = (values * (basis @ other_values)).sum() / (values.norm() * other_values.norm())
        o = (outputs * (basis @ other_outputs)).sum() / (outputs.norm() * other_outputs.norm())
        return v + o

    best = fit(value_output_basis(values, outputs, other_values, other_outputs))
    for seed in range(50):
        assert fit(torch.linalg.qr(random_rows(seed, 3, 3))[0]) < best


def test_value_output_basis_ignores_the_scale_of_outputs():
    args = random_rows(1, 3, 9), random_rows(2, 2, 3, 9), random_rows(3, 3, 9)
    outputs = random_rows(4, 2, 3, 9)
    torch.testing.assert_close(
        value_output_basis(*args, outputs), value_output_basis(*args, 1000 * outputs)
    )


def test_outputs_determine_the_basis_if_values_are_zero():
    outputs, turn = random_rows(1, 2, 3, 9), torch.linalg.qr(random_rows(2, 3, 3))[0]
    nothing = torch.zeros(3, 9)
    actual = value_output_basis(nothing, turn @ outputs, nothing, outputs)
    torch.testing.assert_close(actual, turn)


@pytest.mark.parametrize(
    ("pivot_pairs", "head_dim", "dimensions"),
    [
        ([1.0, 0.7, 0.5], 6, [2, 5]),
        ([1.0, 0.5], 5, [1, 3, 4]),  # pairs (0, 2), (1, 3); dimension 4 has no position
    ],
)
def test_query_key_basis_matches_pairs_by_frequency(pivot_pairs, head_dim, dimensions):
    pairs = pair_frequencies(pivot_pairs, [0.5])
    rows = random_rows(1, 1, head_dim, 9)
    basis = query_key_basis(rows, rows[0], rows[:, dimensions], rows[0][dimensions], pairs)
    torch.testing.assert_close(basis, torch.eye(head_dim)[:, dimensions])


def test_query_key_basis_rotates_within_rotary_planes():
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
