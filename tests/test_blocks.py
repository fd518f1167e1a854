"""A block's parts as heads and neurons, and back."""

import pytest
import torch

from seme.alignment.attention import match_heads
from seme.alignment.mlp import NeuronMatch
from seme.alignment.transform import (
    ATTENTION,
    MLP,
    heads_of,
    neurons_of,
    place_heads,
    place_neurons,
    read_block,
    restrict_to_heads,
    restrict_to_neurons,
)
from seme.architecture.parts import Part
from tests.disguise import anatomy_of
from tests.tiny_models import DENSE, save_tiny


def attention(folder, model_type, **settings):
    """Save a model and take its anatomy, the attention of layer 1, and its heads."""
    anatomy = anatomy_of(save_tiny(folder, model_type, **settings))
    parts = read_block(anatomy.read, anatomy, ATTENTION, 1)
    return anatomy, parts, heads_of(parts, anatomy, 1)


@pytest.mark.parametrize("model_type", DENSE)
def test_a_layers_parts_are_those_of_its_two_blocks(model_type, tmp_path):
    anatomy = anatomy_of(save_tiny(tmp_path / "model", model_type))
    blocks = [read_block(anatomy.read, anatomy, parts, 1) for parts in (ATTENTION, MLP)]
    found = [part for block in blocks for part in block]
    assert sorted(found) == sorted(p.part for p in anatomy.places if p.layer == 1)


@pytest.mark.parametrize("model_type", DENSE)
def test_heads_take_their_sizes_and_frequencies_from_the_model(model_type, tmp_path):
    anatomy, parts, heads = attention(tmp_path / "model", model_type)
    sizes = anatomy.dimensions
    assert (heads.n_heads, heads.n_kv) == (sizes.n_heads, sizes.n_kv_heads)
    assert heads.frequencies == sizes.rotary_of(1)
    assert torch.equal(heads.o, parts[Part.O])
    assert (heads.q_bias is None) == (Part.Q_BIAS not in parts)


@pytest.mark.parametrize("model_type", DENSE)
def test_heads_put_at_their_own_places_are_what_they_were(model_type, tmp_path):
    anatomy, parts, heads = attention(tmp_path / "model", model_type)
    inner = anatomy.family.qk_norm == "none"
    match = match_heads(heads, heads, rotate_inner=inner)
    placed = place_heads(parts, match, anatomy, 1)
    assert placed.keys() == parts.keys()
    for part, values in parts.items():
        torch.testing.assert_close(placed[part], values, atol=1e-5, rtol=0)
    assert restrict_to_heads(parts, match, anatomy, 1) is parts


def test_the_gains_over_all_heads_move_with_the_heads(tmp_path):
    _, _, pivot = attention(tmp_path / "pivot", "olmo2")
    anatomy, parts, heads = attention(tmp_path / "source", "olmo2", seed=1)
    match = match_heads(pivot, heads, rotate_inner=False)
    assert match.head_index.tolist() != [0, 1, 2, 3]
    placed = place_heads(parts, match, anatomy, 1)
    gains = parts[Part.Q_NORM].view(4, 8), placed[Part.Q_NORM].view(4, 8)
    assert torch.equal(gains[0][match.head_index], gains[1])


def test_fewer_heads_under_one_norm_have_smaller_gains_and_leave_the_others_alone(tmp_path):
    ours, of_pivot, pivot = attention(tmp_path / "pivot", "olmo2")
    half = {"num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 16}
    theirs, of_source, heads = attention(tmp_path / "source", "olmo2", **half)
    # a source of width 16 in a pivot of width 32
    wide = {Part.Q: heads.q, Part.K: heads.k, Part.V: heads.v}
    of_source = of_source | {part: torch.cat([w, 0 * w], dim=1) for part, w in wide.items()}
    of_source[Part.O] = torch.cat([heads.o, 0 * heads.o])
    match = match_heads(pivot, heads_of(of_source, theirs, 1), rotate_inner=False)
    assert sorted(match.head_index.tolist()) == [-1, -1, 0, 1]
    there = (match.head_index >= 0).repeat_interleave(8)
    placed = place_heads(of_source, match, theirs, 1)[Part.Q_NORM]
    own = of_source[Part.Q_NORM].view(2, 8)[match.head_index[match.head_index >= 0]]
    torch.testing.assert_close(placed[there], own.flatten() * 0.5**0.5)
    assert placed[~there].tolist() == [0.0] * 16
    kept = restrict_to_heads(of_pivot, match, ours, 1)[Part.Q_NORM]
    assert torch.equal(kept, of_pivot[Part.Q_NORM] * there)


def test_another_scale_of_attention_goes_to_queries_or_to_the_gain_of_their_norm(tmp_path):
    for model_type, scaled in (("gemma2", Part.Q), ("gemma3_text", Part.Q_NORM)):
        _, _, pivot = attention(
            tmp_path / f"{model_type} 6", model_type, query_pre_attn_scalar=6
        )
        anatomy, parts, heads = attention(tmp_path / model_type, model_type)
        match = match_heads(pivot, heads, rotate_inner=model_type == "gemma2")
        placed = place_heads(parts, match, anatomy, 1)
        # 24 ** -0.5 over 6 ** -0.5
        torch.testing.assert_close(placed[scaled].norm(), 0.5 * parts[scaled].norm())
        unscaled = Part.K if scaled is Part.Q else Part.Q
        torch.testing.assert_close(placed[unscaled].norm(), parts[unscaled].norm())


def test_a_query_head_without_a_counterpart_in_a_group_that_has_one_is_not_the_sources(
    tmp_path,
):
    ours, parts, pivot = attention(tmp_path / "pivot", "llama")
    sizes = {"num_attention_heads": 2, "head_dim": 8}
    _, _, heads = attention(tmp_path / "source", "llama", seed=1, **sizes)
    match = match_heads(pivot, heads, rotate_inner=True)
    restricted = restrict_to_heads(parts, match, ours, 1)
    there = (match.head_index >= 0).repeat_interleave(8)
    assert int(there.sum()) == 16
    assert (
        restricted[Part.Q][~there].abs().max() == 0 == restricted[Part.O][:, ~there].abs().max()
    )
    torch.testing.assert_close(restricted[Part.Q][there], parts[Part.Q][there])
    torch.testing.assert_close(restricted[Part.K], parts[Part.K])


def test_rotary_pairs_without_a_counterpart_are_not_the_sources(tmp_path):
    # the source turns two pairs of each head, the pivot all four: two of the pivot's stay
    ours, parts, pivot = attention(tmp_path / "pivot", "phi3", partial_rotary_factor=1.0)
    _, _, heads = attention(tmp_path / "source", "phi3", seed=1)
    match = match_heads(pivot, heads, rotate_inner=True)
    restricted = restrict_to_heads(parts, match, ours, 1)
    kept = restricted[Part.K].view(2, 8, 32).abs().sum(dim=(0, 2)) > 0
    assert int(kept.sum()) == 4
    assert torch.equal(kept[:4], kept[4:])
    torch.testing.assert_close(restricted[Part.V], parts[Part.V])


def test_neurons_are_placed_with_their_sign_and_zeros_where_there_is_none(tmp_path):
    anatomy = anatomy_of(save_tiny(tmp_path / "model", "llama"))
    parts = read_block(anatomy.read, anatomy, MLP, 0)
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


def test_a_pivots_mlp_is_restricted_to_the_neurons_that_have_a_counterpart(tmp_path):
    anatomy = anatomy_of(save_tiny(tmp_path / "model", "gpt2", n_inner=3))
    parts = read_block(anatomy.read, anatomy, MLP, 0)
    index, sign = torch.tensor([7, -1, 2]), torch.tensor([1.0, 1.0, 1.0])
    match = NeuronMatch(index=index, sign=sign, similarity=torch.ones(3))
    found = restrict_to_neurons(parts, match)
    kept = torch.tensor([1.0, 0.0, 1.0])
    assert torch.equal(found[Part.UP], kept[:, None] * parts[Part.UP])
    assert torch.equal(found[Part.DOWN], kept * parts[Part.DOWN])
    assert torch.equal(found[Part.UP_BIAS], kept * parts[Part.UP_BIAS])
    everything = NeuronMatch(index=torch.tensor([7, 4, 2]), sign=sign, similarity=torch.ones(3))
    assert restrict_to_neurons(parts, everything) is parts


def test_the_sign_of_a_match_says_nothing_of_the_pivots_own_neurons(tmp_path):
    anatomy = anatomy_of(save_tiny(tmp_path / "model", "mistral", intermediate_size=2))
    parts = read_block(anatomy.read, anatomy, MLP, 0)
    match = NeuronMatch(
        index=torch.tensor([3, -1]), sign=torch.tensor([-1.0, 1.0]), similarity=torch.ones(2)
    )
    assert torch.equal(restrict_to_neurons(parts, match)[Part.UP][0], parts[Part.UP][0])
    assert neurons_of(parts).gate_bias is None
