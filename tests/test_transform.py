"""Effect of a residual map on the parts of a model."""

import pytest
import torch

from scripts.disguise import random_turn
from seme.alignment.attention import match_heads
from seme.alignment.mlp import NeuronMatch
from seme.alignment.residual_map import ResidualMap
from seme.alignment.transform import (
    ATTENTION,
    MLP,
    READERS,
    WRITERS,
    heads_of,
    neurons_of,
    place_heads,
    place_neurons,
    read_block,
    restrict_part,
    restrict_to_heads,
    restrict_to_neurons,
    turn_block,
    turn_part,
    width_scale,
)
from seme.architecture.parts import Part
from tests.disguise import as_map, open_canonical
from tests.tiny_models import DENSE, save_tiny

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
        (Part.O_BIAS, [8.0, 3.0]),  # T b
        (Part.DOWN_BIAS, [8.0, 3.0]),
        (Part.Q_BIAS, [2.0, 3.0]),  # not in the residual stream
        (Part.UP_BIAS, [2.0, 3.0]),
        (Part.Q_NORM, [2.0, 3.0]),
        (Part.ATTENTION_NORM, [1.0, 1.0]),  # folded
        (Part.MLP_NORM_BIAS, [0.0, 0.0]),
    ],
)
def test_parts_are_mapped_on_their_residual_stream_side(part, expected):
    values = MATRIX if isinstance(expected[0], list) else VECTOR
    for normed in (True, False):
        assert turn_part(part, values, SHEAR, normed=normed).tolist() == expected


def test_parts_without_a_map_are_unchanged():
    for part in (Part.Q, Part.O, Part.EMBEDDING, Part.ATTENTION_POST_NORM, Part.MLP_NORM):
        assert turn_part(part, MATRIX, None, normed=True) is MATRIX
        assert restrict_part(part, MATRIX, None) is MATRIX
    assert turn_part(Part.FINAL_NORM, VECTOR, None, normed=True) is VECTOR


def test_normed_readers_compensate_for_the_width():
    # a norm of width 8 makes a vector of two dimensions twice as long as one of width 2
    assert width_scale(WIDENING) == 0.5
    normed = turn_part(Part.Q, MATRIX, WIDENING, normed=True)
    assert normed[:, [0, 7]].tolist() == [[0.5, 0.5], [0.0, 1.0]]
    assert normed[:, 1:7].abs().max() == 0
    plain = turn_part(Part.Q, MATRIX, WIDENING, normed=False)
    assert torch.equal(plain, 2 * normed)


def test_turn_block_scales_only_normed_readers():
    parts = {Part.ATTENTION_NORM: VECTOR, Part.Q: MATRIX, Part.O: MATRIX, Part.GATE: MATRIX}
    turned = turn_block(parts, WIDENING)
    assert turned.keys() == parts.keys()
    assert torch.equal(turned[Part.Q], turn_part(Part.Q, MATRIX, WIDENING, normed=True))
    assert torch.equal(turned[Part.GATE], turn_part(Part.GATE, MATRIX, WIDENING, normed=False))


@pytest.mark.parametrize("part", [Part.ATTENTION_POST_NORM, Part.MLP_POST_NORM])
def test_constant_post_norm_gain_is_rescaled(part):
    gain = turn_part(part, torch.tensor([3.0, 3.0]), WIDENING, normed=True)
    assert gain.tolist() == [1.5] * 8
    with pytest.raises(ValueError, match=rf"{part} .* from 2 to 3: .*frame"):
        turn_part(part, VECTOR, WIDENING, normed=True)


def rms(vector):
    return vector / vector.square().mean().sqrt()


def test_mapped_post_norm_equals_the_source_norm():
    # gain' * norm(T y) = T (gain * norm(y))
    turn = as_map(random_turn(12, torch.Generator().manual_seed(1), centred=False)[:, :4])
    written, gain = random(4), torch.full((4,), 1.7)
    turned = turn_part(Part.ATTENTION_POST_NORM, gain, turn, normed=True)
    torch.testing.assert_close(
        turned * rms(turn.forward_PK @ written), turn.forward_PK @ (gain * rms(written))
    )


def test_folded_final_norm_has_gain_one_and_a_rescaled_bias():
    # the head after the norm is scaled by sqrt(2 / 8)
    assert (
        turn_part(Part.FINAL_NORM, torch.ones(2), WIDENING, normed=True).tolist() == [1.0] * 8
    )
    bias = turn_part(Part.FINAL_NORM_BIAS, VECTOR, WIDENING, normed=True)
    assert bias.tolist() == [4.0, 0, 0, 0, 0, 0, 0, 6.0]


def test_reader_times_writer_is_invariant_under_the_map():
    turn = as_map(
        random_turn(12, torch.Generator().manual_seed(1), centred=True, source_width=5)
    )
    reader, writer = random(3, 5), random(5, 4, seed=1)
    read = turn_part(Part.UP, reader, turn, normed=False)
    written = turn_part(Part.DOWN, writer, turn, normed=False)
    torch.testing.assert_close(read @ written, reader @ writer)


@pytest.mark.parametrize("part", sorted(READERS | WRITERS | {Part.EMBEDDING}))
def test_parts_are_restricted_to_the_support_of_the_source(part):
    vector = torch.arange(1.0, 9.0)
    pivot = vector if part.endswith("bias") else torch.outer(vector, vector)
    reached = torch.zeros(8)
    reached[[0, 7]] = 1
    axis = "i" if part in WRITERS else "j"  # a bias is a writer's
    expected = torch.einsum(f"ij,{axis}->ij", pivot.view(8, -1), reached).view_as(pivot)
    assert torch.equal(restrict_part(part, pivot, WIDENING), expected)


def test_norms_and_inner_parts_are_not_restricted():
    gain = torch.arange(8.0)
    for part in (Part.Q_BIAS, Part.Q_NORM, Part.FINAL_NORM, Part.MLP_NORM):
        assert restrict_part(part, gain, WIDENING) is gain
    assert restrict_part(Part.FINAL_NORM_BIAS, gain, WIDENING)[1:7].tolist() == [0.0] * 6


def attention(folder, model_type, **settings):
    """Save a model and take its model, the attention of layer 1, and its heads."""
    model = open_canonical(save_tiny(folder, model_type, **settings))
    parts = read_block(model.read, model, ATTENTION, 1)
    return model, parts, heads_of(parts, model, 1)


@pytest.mark.parametrize("model_type", DENSE)
def test_layer_parts_are_those_of_attention_and_mlp(model_type, tmp_path):
    model = open_canonical(save_tiny(tmp_path / "model", model_type))
    blocks = [read_block(model.read, model, parts, 1) for parts in (ATTENTION, MLP)]
    actual = [part for block in blocks for part in block]
    assert sorted(actual) == sorted(p.part for p in model.places if p.layer == 1)


@pytest.mark.parametrize("model_type", DENSE)
def test_heads_have_sizes_and_frequencies_of_the_model(model_type, tmp_path):
    model, parts, heads = attention(tmp_path / "model", model_type)
    sizes = model.dimensions
    assert (heads.n_heads, heads.n_kv) == (sizes.n_heads, sizes.n_kv_heads)
    assert heads.frequencies == sizes.rotary_of(1)
    assert torch.equal(heads.o, parts[Part.O])
    assert (heads.q_bias is None) == (Part.Q_BIAS not in parts)


@pytest.mark.parametrize("model_type", DENSE)
def test_heads_matched_to_themselves_are_unchanged(model_type, tmp_path):
    model, parts, heads = attention(tmp_path / "model", model_type)
    inner = model.family.qk_norm == "none"
    match = match_heads(heads, heads, rotate_inner=inner)
    placed = place_heads(parts, match, model, 1)
    assert placed.keys() == parts.keys()
    for part, values in parts.items():
        torch.testing.assert_close(placed[part], values, atol=1e-5, rtol=0)
    assert restrict_to_heads(parts, match, model, 1) is parts


def test_qk_norm_gains_move_with_their_heads(tmp_path):
    _, _, pivot = attention(tmp_path / "pivot", "olmo2")
    model, parts, heads = attention(tmp_path / "source", "olmo2", seed=1)
    match = match_heads(pivot, heads, rotate_inner=False)
    assert match.head_index.tolist() != [0, 1, 2, 3]
    placed = place_heads(parts, match, model, 1)
    gains = parts[Part.Q_NORM].view(4, 8), placed[Part.Q_NORM].view(4, 8)
    assert torch.equal(gains[0][match.head_index], gains[1])


def test_fewer_heads_under_one_norm_have_rescaled_gains(tmp_path):
    pivot_model, of_pivot, pivot = attention(tmp_path / "pivot", "olmo2")
    half = {"num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 16}
    source_model, of_source, heads = attention(tmp_path / "source", "olmo2", **half)
    # a source of width 16 in a pivot of width 32
    wide = {Part.Q: heads.q, Part.K: heads.k, Part.V: heads.v}
    of_source = of_source | {part: torch.cat([w, 0 * w], dim=1) for part, w in wide.items()}
    of_source[Part.O] = torch.cat([heads.o, 0 * heads.o])
    match = match_heads(pivot, heads_of(of_source, source_model, 1), rotate_inner=False)
    assert sorted(match.head_index.tolist()) == [-1, -1, 0, 1]
    matched_rows = (match.head_index >= 0).repeat_interleave(8)
    placed = place_heads(of_source, match, source_model, 1)[Part.Q_NORM]
    own = of_source[Part.Q_NORM].view(2, 8)[match.head_index[match.head_index >= 0]]
    torch.testing.assert_close(placed[matched_rows], own.flatten() * 0.5**0.5)
    assert placed[~matched_rows].tolist() == [0.0] * 16
    kept = restrict_to_heads(of_pivot, match, pivot_model, 1)[Part.Q_NORM]
    assert torch.equal(kept, of_pivot[Part.Q_NORM] * matched_rows)


def test_attention_scale_moves_into_queries_or_their_norm_gain(tmp_path):
    for model_type, scaled in (("gemma2", Part.Q), ("gemma3_text", Part.Q_NORM)):
        _, _, pivot = attention(
            tmp_path / f"{model_type} 6", model_type, query_pre_attn_scalar=6
        )
        model, parts, heads = attention(tmp_path / model_type, model_type)
        match = match_heads(pivot, heads, rotate_inner=model_type == "gemma2")
        placed = place_heads(parts, match, model, 1)
        # 24 ** -0.5 over 6 ** -0.5
        torch.testing.assert_close(placed[scaled].norm(), 0.5 * parts[scaled].norm())
        unscaled = Part.K if scaled is Part.Q else Part.Q
        torch.testing.assert_close(placed[unscaled].norm(), parts[unscaled].norm())


def test_restriction_zeroes_unmatched_query_heads(tmp_path):
    pivot_model, parts, pivot = attention(tmp_path / "pivot", "llama")
    sizes = {"num_attention_heads": 2, "head_dim": 8}
    _, _, heads = attention(tmp_path / "source", "llama", seed=1, **sizes)
    match = match_heads(pivot, heads, rotate_inner=True)
    restricted = restrict_to_heads(parts, match, pivot_model, 1)
    matched_rows = (match.head_index >= 0).repeat_interleave(8)
    assert int(matched_rows.sum()) == 16
    assert (
        restricted[Part.Q][~matched_rows].abs().max()
        == 0
        == restricted[Part.O][:, ~matched_rows].abs().max()
    )
    torch.testing.assert_close(restricted[Part.Q][matched_rows], parts[Part.Q][matched_rows])
    torch.testing.assert_close(restricted[Part.K], parts[Part.K])


def test_restriction_zeroes_unmatched_rotary_pairs(tmp_path):
    # the source turns two pairs of each head, the pivot all four: two of the pivot's stay
    pivot_model, parts, pivot = attention(tmp_path / "pivot", "phi3", partial_rotary_factor=1.0)
    _, _, heads = attention(tmp_path / "source", "phi3", seed=1)
    match = match_heads(pivot, heads, rotate_inner=True)
    restricted = restrict_to_heads(parts, match, pivot_model, 1)
    kept = restricted[Part.K].view(2, 8, 32).abs().sum(dim=(0, 2)) > 0
    assert int(kept.sum()) == 4
    assert torch.equal(kept[:4], kept[4:])
    torch.testing.assert_close(restricted[Part.V], parts[Part.V])


def test_neurons_are_placed_with_sign_and_zeros_if_unmatched(tmp_path):
    model = open_canonical(save_tiny(tmp_path / "model", "llama"))
    parts = read_block(model.read, model, MLP, 0)
    match = NeuronMatch(
        index=torch.tensor([5, -1, 0]),
        sign=torch.tensor([-1.0, 1.0, 1.0]),
        similarity=torch.ones(3),
    )
    placed = place_neurons(parts, match)
    assert torch.equal(placed[Part.UP][0], -parts[Part.UP][5])
    assert torch.equal(placed[Part.GATE][0], parts[Part.GATE][5])
    assert torch.equal(placed[Part.DOWN][:, 2], parts[Part.DOWN][:, 0])
    assert placed[Part.DOWN][:, 1].abs().max() == 0 == placed[Part.GATE_BIAS][1]
    assert torch.equal(placed[Part.DOWN_BIAS], parts[Part.DOWN_BIAS])


def test_restriction_zeroes_unmatched_neurons(tmp_path):
    model = open_canonical(save_tiny(tmp_path / "model", "gpt2", n_inner=3))
    parts = read_block(model.read, model, MLP, 0)
    index, sign = torch.tensor([7, -1, 2]), torch.tensor([1.0, 1.0, 1.0])
    match = NeuronMatch(index=index, sign=sign, similarity=torch.ones(3))
    actual = restrict_to_neurons(parts, match)
    kept = torch.tensor([1.0, 0.0, 1.0])
    assert torch.equal(actual[Part.UP], kept[:, None] * parts[Part.UP])
    assert torch.equal(actual[Part.DOWN], kept * parts[Part.DOWN])
    assert torch.equal(actual[Part.UP_BIAS], kept * parts[Part.UP_BIAS])
    everything = NeuronMatch(index=torch.tensor([7, 4, 2]), sign=sign, similarity=torch.ones(3))
    assert restrict_to_neurons(parts, everything) is parts


def test_restriction_does_not_flip_signs(tmp_path):
    model = open_canonical(save_tiny(tmp_path / "model", "mistral", intermediate_size=2))
    parts = read_block(model.read, model, MLP, 0)
    match = NeuronMatch(
        index=torch.tensor([3, -1]), sign=torch.tensor([-1.0, 1.0]), similarity=torch.ones(2)
    )
    assert torch.equal(restrict_to_neurons(parts, match)[Part.UP][0], parts[Part.UP][0])
    assert neurons_of(parts).gate_bias is None
