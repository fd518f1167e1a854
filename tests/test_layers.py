"""Source layers matched to each layer of the pivot, and their units."""

from types import SimpleNamespace

import pytest
import torch

from scripts.disguise import random_orthogonal
from seme.alignment.layers import (
    LayerMatch,
    express_block,
    have_same_units,
    heads_in_order,
    layer_shares,
    match_layers,
    neurons_in_order,
)
from seme.architecture.parts import Part, Place
from tests.disguise import as_map, folded
from tests.tiny_models import save_tiny


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({}, True),
        ({"num_hidden_layers": 3}, True),
        ({"num_key_value_heads": 4}, False),
        ({"intermediate_size": 40}, False),
        ({"head_dim": 16}, False),
    ],
)
def test_same_units_means_equal_unit_counts(settings, same, canonical):
    assert have_same_units(canonical("llama"), canonical("llama", **settings)) is same


def test_unmatched_units_keep_their_order(tmp_path):
    pivot, source = (
        folded(save_tiny(tmp_path / str(n), "llama", num_hidden_layers=n)).model for n in (2, 3)
    )
    layers = match_layers(pivot, source, None, units=False)
    assert [[(m.layer, m.share) for m in at] for at in layers] == [[(0, 1.0)], [(2, 1.0)]]
    assert all(m.heads is None is m.neurons for at in layers for m in at)


def test_interpolated_layers_are_matched_separately(tmp_path):
    pivot, source = (
        folded(save_tiny(tmp_path / str(n), "llama", num_hidden_layers=n)).model for n in (3, 2)
    )
    layers = match_layers(pivot, source, None, units=True)
    shares = [[(m.layer, m.share) for m in at] for at in layers]
    assert shares == [[(0, 1.0)], [(0, 0.5), (1, 0.5)], [(1, 1.0)]]
    first, second = layers[1]
    assert not torch.equal(first.neurons.index, second.neurons.index)


def test_model_matches_itself_unit_by_unit(tmp_path):
    model = folded(save_tiny(tmp_path / "model", "llama")).model
    for ((match,),) in zip(match_layers(model, model, None, units=True), strict=True):
        assert match.heads.head_index.tolist() == [0, 1, 2, 3]
        assert match.neurons.index.tolist() == list(range(48))
        assert float(match.heads.similarity.min()) == pytest.approx(1.0, abs=1e-5)
        torch.testing.assert_close(match.heads.qk, torch.eye(8).expand(2, 8, 8))


def test_units_are_compared_after_the_residual_map(tmp_path):
    # under the right turn a model in another frame matches itself, without it nothing is alike
    model = folded(save_tiny(tmp_path / "model", "llama")).model
    turn = as_map(random_orthogonal(32, torch.Generator().manual_seed(3)))

    class Turned:
        canonical = model.canonical

        def read(self, place):
            part = model.read(place)
            if place.part in (Part.Q, Part.K, Part.V, Part.GATE, Part.UP):
                return part @ turn.forward_PK
            return turn.forward_PK.T @ part if place.part in (Part.O, Part.DOWN) else part

    for right, similarity in ((turn, 1.0), (None, 0.3)):
        ((match,), _) = match_layers(model, Turned(), right, units=True)
        assert float(match.neurons.similarity.mean()) == pytest.approx(similarity, abs=0.2)
    assert Place(Part.Q, 0) in model.canonical.places


@pytest.mark.parametrize("model_type", ["qwen3", "gemma3_text", "olmo2"])
def test_normed_queries_and_keys_keep_an_identity_basis(model_type, tmp_path):
    pivot, source = (folded(save_tiny(tmp_path / str(s), model_type, seed=s)) for s in (0, 1))
    ((match,), _) = match_layers(pivot.model, source.model, None, units=True)
    size = match.heads.qk.shape[1]
    assert torch.equal(match.heads.qk, torch.eye(size).expand_as(match.heads.qk))
    assert not torch.allclose(match.heads.vo[0], torch.eye(size), atol=0.1)


@pytest.mark.parametrize(
    ("n_source", "shares"),
    [
        (1, [[(0, 1.0)]] * 5),
        (5, [[(i, 1.0)] for i in range(5)]),
        # positions 0, 0.5, 1, 1.5, 2 and 0, 1.25, 2.5, 3.75, 5
        (3, [[(0, 1.0)], [(0, 0.5), (1, 0.5)], [(1, 1.0)], [(1, 0.5), (2, 0.5)], [(2, 1.0)]]),
        (6, [[(0, 1.0)], [(1, 0.75), (2, 0.25)], [(2, 0.5), (3, 0.5)], [(3, 0.25), (4, 0.75)],
             [(5, 1.0)]]),
    ],
)  # fmt: skip
def test_five_layers_take_source_layers_by_linear_interpolation(n_source, shares):
    actual = [layer_shares(i, n_pivot=5, n_source=n_source) for i in range(5)]
    assert actual == [tuple(at) for at in shares]


@pytest.mark.parametrize(("n_pivot", "n_source"), [(2, 7), (7, 2), (24, 28), (4, 3), (1, 1)])
def test_first_and_last_layers_match_and_shares_sum_to_one(n_pivot, n_source):
    shares = [layer_shares(i, n_pivot=n_pivot, n_source=n_source) for i in range(n_pivot)]
    assert shares[0] == ((0, 1.0),)
    assert shares[-1] == ((n_source - 1, 1.0),)
    assert all(sum(share for _, share in actual) == pytest.approx(1) for actual in shares)
    assert all(0 <= layer < n_source for actual in shares for layer, _ in actual)


@pytest.mark.parametrize(("layer", "n_pivot", "n_source"), [(3, 3, 3), (-1, 3, 3), (0, 1, 0)])
def test_layer_out_of_range_is_refused(layer, n_pivot, n_source):
    with pytest.raises(ValueError, match=f"one of the pivot's {n_pivot}.*layer {layer}"):
        layer_shares(layer, n_pivot=n_pivot, n_source=n_source)


def model(n_heads, n_kv, head_dim, n_neurons=4):
    pairs = head_dim // 2
    sizes = SimpleNamespace(
        n_heads=n_heads, n_kv_heads=n_kv, head_dim=head_dim, n_neurons=n_neurons,
        attention_scale=head_dim**-0.5,
        rotary_of=lambda _layer: tuple(100.0 ** (-i / pairs) for i in range(pairs)),
    )  # fmt: skip
    return SimpleNamespace(dimensions=sizes)


def test_neurons_in_order_are_matched_by_index():
    assert neurons_in_order(model(2, 1, 4, 5), model(2, 1, 4, 3)).index.tolist() == [
        0, 1, 2, -1, -1
    ]  # fmt: skip
    assert neurons_in_order(model(2, 1, 4, 2), model(2, 1, 4, 3)).index.tolist() == [0, 1]


def test_heads_in_order_keep_group_and_position():
    # pivot: 3 groups of 2 heads; source: 2 groups of 3 heads
    match = heads_in_order(model(6, 3, 4), model(6, 2, 4), 0, 0)
    assert match.group_index.tolist() == [0, 1, -1]
    assert match.head_index.tolist() == [0, 1, 3, 4, -1, -1]
    assert torch.equal(match.qk[0], torch.eye(4))
    assert torch.equal(match.vo[1], torch.eye(4))
    assert not match.qk[2].any()
    assert not match.vo[2].any()


def test_smaller_groups_leave_heads_unmatched():
    # pivot: 2 groups of 3 heads; source: 2 groups of 2
    match = heads_in_order(model(6, 2, 4), model(4, 2, 4), 0, 0)
    assert match.head_index.tolist() == [0, 1, -1, 2, 3, -1]


def test_narrower_heads_in_order_are_matched_by_frequency():
    # pairs of the source at theta ** 0 and ** -1/2, which the pivot has as pairs 0 and 2 of 4
    match = heads_in_order(model(1, 1, 8), model(1, 1, 4), 0, 0)
    assert match.exact
    assert match.qk[0].nonzero().tolist() == [[0, 0], [2, 1], [4, 2], [6, 3]]
    assert match.q_scale == pytest.approx(2**0.5)


def test_express_block_reorders_neurons_to_the_pivot(tmp_path):
    pivot, source = (folded(save_tiny(tmp_path / str(s), "llama", seed=s)) for s in (0, 1))
    match = match_layers(pivot.model, source.model, None, units=True)[0][0]
    actual = express_block(source.model, None, match, attention=False)
    gate = source.model.read(Place(Part.GATE, 0))
    assert torch.equal(actual[Part.GATE], gate[match.neurons.index])
    plain = LayerMatch(layer=0, share=1.0, heads=None, neurons=None)
    assert torch.equal(
        express_block(source.model, None, plain, attention=False)[Part.GATE], gate
    )
