from types import SimpleNamespace

import pytest
import torch

from seme.alignment.layers import heads_in_order, neurons_in_order


def model(n_heads, n_kv, head_dim, n_neurons=4):
    pairs = head_dim // 2
    sizes = SimpleNamespace(
        n_heads=n_heads, n_kv_heads=n_kv, head_dim=head_dim, n_neurons=n_neurons,
        attention_scale=head_dim**-0.5,
        rotary_of=lambda _layer: tuple(100.0 ** (-i / pairs) for i in range(pairs)),
    )  # fmt: skip
    return SimpleNamespace(dimensions=sizes)


def test_the_first_neurons_stand_on_one_another():
    assert neurons_in_order(model(2, 1, 4, 5), model(2, 1, 4, 3)).index.tolist() == [
        0, 1, 2, -1, -1
    ]  # fmt: skip
    assert neurons_in_order(model(2, 1, 4, 2), model(2, 1, 4, 3)).index.tolist() == [0, 1]


def test_heads_keep_their_group_and_their_place_in_it():
    # pivot: 3 groups of 2 heads; source: 2 groups of 3 heads
    match = heads_in_order(model(6, 3, 4), model(6, 2, 4), 0, 0)
    assert match.group_index.tolist() == [0, 1, -1]
    assert match.head_index.tolist() == [0, 1, 3, 4, -1, -1]
    assert torch.equal(match.qk[0], torch.eye(4))
    assert torch.equal(match.vo[1], torch.eye(4))
    assert not match.qk[2].any()
    assert not match.vo[2].any()


def test_groups_with_fewer_heads_leave_places_empty():
    # pivot: 2 groups of 3 heads; source: 2 groups of 2
    match = heads_in_order(model(6, 2, 4), model(4, 2, 4), 0, 0)
    assert match.head_index.tolist() == [0, 1, -1, 2, 3, -1]


def test_a_narrower_head_stands_at_its_frequencies():
    # pairs of the source at theta ** 0 and ** -1/2, which the pivot has as pairs 0 and 2 of 4
    match = heads_in_order(model(1, 1, 8), model(1, 1, 4), 0, 0)
    assert match.exact
    assert match.qk[0].nonzero().tolist() == [[0, 0], [2, 1], [4, 2], [6, 3]]
    assert match.q_scale == pytest.approx(2**0.5)
