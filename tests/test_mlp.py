"""Neurons of an MLP: matched by what they read and write."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import gelu, silu

from seme.alignment.mlp import Neurons, apply_neurons, match_neurons, neuron_similarity

WIDTH = 12


def random_neurons(seed, n=20, *, gated=True, bias=True, width=WIDTH):
    rng = torch.Generator().manual_seed(seed)
    return Neurons(
        gate=torch.randn(n, width, generator=rng) if gated else None,
        up=torch.randn(n, width, generator=rng),
        down=torch.randn(width, n, generator=rng),
        gate_bias=torch.randn(n, generator=rng) if gated and bias else None,
        up_bias=torch.randn(n, generator=rng) if bias else None,
    )


def shuffled(neurons, order, sign):
    """The same MLP: neurons in another order, (up, down) of some with the other sign."""
    return Neurons(
        gate=None if neurons.gate is None else neurons.gate[order],
        up=sign[:, None] * neurons.up[order],
        down=sign * neurons.down[:, order],
        gate_bias=None if neurons.gate_bias is None else neurons.gate_bias[order],
        up_bias=None if neurons.up_bias is None else sign * neurons.up_bias[order],
    )


def compute(neurons, states):
    def read(weight, bias):
        return states @ weight.T + (0 if bias is None else bias)

    inner = read(neurons.up, neurons.up_bias)
    if neurons.gate is None:
        return gelu(inner) @ neurons.down.T
    return (silu(read(neurons.gate, neurons.gate_bias)) * inner) @ neurons.down.T


def assert_same_function(neurons, others):
    states = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        compute(neurons, states), compute(others, states), rtol=1e-4, atol=1e-4
    )


def test_two_swapped_neurons_are_matched_with_their_sign():
    # pivot neurons read x, y; the source has them in the other order, one (up, down) negated
    pivot = Neurons(gate=torch.eye(2), up=torch.eye(2), down=torch.eye(2))
    source = Neurons(
        gate=torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
        up=torch.tensor([[0.0, -3.0], [2.0, 0.0]]),
        down=torch.tensor([[0.0, 5.0], [-1.0, 0.0]]),
    )
    match = match_neurons(pivot, source)
    assert match.index.tolist() == [1, 0]
    assert match.sign.tolist() == [1.0, -1.0]
    assert match.similarity.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("bias", [True, False])
def test_permuted_and_sign_flipped_copy_is_recovered(bias):
    pivot = random_neurons(1, bias=bias)
    rng = torch.Generator().manual_seed(2)
    order = torch.randperm(20, generator=rng)
    sign = 1.0 - 2.0 * torch.randint(2, (20,), generator=rng)
    copy = shuffled(pivot, order, sign)
    assert_same_function(copy, pivot)
    actual = apply_neurons(match_neurons(pivot, copy), copy)
    for name in ("gate", "up", "down", *(("gate_bias", "up_bias") if bias else ())):
        assert torch.equal(getattr(actual, name), getattr(pivot, name))


def test_ungated_permuted_copy_is_recovered_without_sign_flips():
    pivot = random_neurons(1, gated=False)
    copy = shuffled(pivot, torch.arange(20).flip(0), torch.ones(20))
    match = match_neurons(pivot, copy)
    assert match.index.tolist() == list(range(19, -1, -1))
    assert match.sign.tolist() == [1.0] * 20
    assert torch.equal(apply_neurons(match, copy).down, pivot.down)


def test_ungated_negated_neuron_has_similarity_minus_one():
    pivot = random_neurons(1, gated=False, bias=False)
    negated = shuffled(pivot, torch.arange(20), -torch.ones(20))
    torch.testing.assert_close(
        neuron_similarity(pivot, negated).diagonal(), torch.full((20,), -1.0)
    )


def test_ungated_neurons_are_never_flipped():
    pivot = random_neurons(1, n=1, gated=False, bias=False)
    match = match_neurons(pivot, shuffled(pivot, torch.tensor([0]), -torch.ones(1)))
    assert match.sign.tolist() == [1.0]
    assert match.similarity.tolist() == pytest.approx([-1.0])


def test_negated_gate_reduces_the_similarity():
    pivot = random_neurons(1, bias=False)
    negated = replace(pivot, gate=-pivot.gate)
    torch.testing.assert_close(
        neuron_similarity(pivot, negated).diagonal(), torch.full((20,), 1 / 3)
    )


def test_rescaled_neurons_have_similarity_one():
    pivot = random_neurons(1)
    scale = torch.logspace(-3, 3, 20)
    copy = replace(
        pivot,
        up=scale[:, None] * pivot.up,
        up_bias=scale * pivot.up_bias,
        down=pivot.down / scale,
    )
    match = match_neurons(pivot, copy)
    assert match.index.tolist() == list(range(20))
    torch.testing.assert_close(match.similarity, torch.ones(20))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gated", [True, False])
def test_matched_source_computes_the_same_function(gated, bias):
    pivot, source = (random_neurons(seed, gated=gated, bias=bias) for seed in (1, 2))
    match = match_neurons(pivot, source)
    assert_same_function(apply_neurons(match, source), source)


def test_neuron_similarity_is_the_mean_of_cosines():
    pivot, source = random_neurons(1), random_neurons(2, n=7)
    i, j = 3, 5

    def cosine(name, bias):
        a, b = (torch.cat([getattr(m, name)[k], getattr(m, bias)[k, None]]) for m, k in both)
        return a @ b / (a.norm() * b.norm())

    both = (pivot, i), (source, j)
    down = torch.cosine_similarity(pivot.down[:, i], source.down[:, j], dim=0)
    expected = (cosine("gate", "gate_bias") + (cosine("up", "up_bias") + down).abs()) / 3
    torch.testing.assert_close(neuron_similarity(pivot, source)[i, j], expected)


def test_fewer_source_neurons_leave_zero_neurons():
    pivot, source = random_neurons(1), random_neurons(2, n=13)
    match = match_neurons(pivot, source)
    assert sorted(match.index.tolist()) == [-1] * 7 + list(range(13))
    placed = apply_neurons(match, source)
    empty = ~match.supported
    assert not placed.up[empty].any()
    assert not placed.down[:, empty].any()
    assert not placed.gate_bias[empty].any()
    assert match.similarity[empty].tolist() == [0.0] * 7
    assert match.sign[empty].tolist() == [1.0] * 7
    assert_same_function(placed, source)


def test_surplus_source_neurons_are_unused():
    pivot, others = random_neurons(1, n=5), random_neurons(2, n=9)
    source = Neurons(
        gate=torch.cat([others.gate, pivot.gate]),
        up=torch.cat([others.up, pivot.up]),
        down=torch.cat([others.down, pivot.down], dim=1),
        gate_bias=torch.cat([others.gate_bias, pivot.gate_bias]),
        up_bias=torch.cat([others.up_bias, pivot.up_bias]),
    )
    assert match_neurons(pivot, source).index.tolist() == [9, 10, 11, 12, 13]


def test_missing_bias_is_compared_as_zero():
    pivot, source = random_neurons(1, bias=False), random_neurons(1)
    match = match_neurons(pivot, replace(pivot, up_bias=source.up_bias))
    assert match.index.tolist() == list(range(20))
    assert (match.similarity < 1).any()


def test_zero_neurons_give_no_nan():
    pivot = random_neurons(1)
    dead = torch.ones(20)
    dead[4:8] = 0
    source = shuffled(pivot, torch.arange(20), dead)
    source = replace(
        source, gate=dead[:, None] * source.gate, gate_bias=dead * source.gate_bias
    )
    match = match_neurons(pivot, source)
    assert sorted(match.index.tolist()) == list(range(20))
    assert match.similarity[4:8].tolist() == [0.0] * 4
    assert match.similarity.isfinite().all()


def test_gated_and_ungated_mlps_are_refused():
    with pytest.raises(ValueError, match="the source has a gated MLP and the pivot has not"):
        match_neurons(random_neurons(1, gated=False), random_neurons(2))
    with pytest.raises(ValueError, match="the pivot has a gated MLP and the source has not"):
        match_neurons(random_neurons(1), random_neurons(2, gated=False))


def test_mlps_of_different_widths_are_refused():
    with pytest.raises(ValueError, match="width 12 of the pivot and 8 of the source"):
        match_neurons(random_neurons(1), random_neurons(2, width=8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gate", r"gate must be shaped like up, \(20, 12\), got \(12, 20\)"),
        ("down", r"down must be \(width, neurons\), \(12, 20\), got \(20, 12\)"),
    ],
)
def test_transposed_weights_are_refused(name, message):
    neurons = random_neurons(1)
    with pytest.raises(ValueError, match=message):
        replace(neurons, **{name: getattr(neurons, name).T})
