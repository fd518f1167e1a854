"""Attention layers for tests: random ones, what they compute, and disguised copies."""

from dataclasses import replace

import torch
from torch.nn.functional import scaled_dot_product_attention

from seme.alignment.attention import Heads

WIDTH = 24


def frequencies(head_dim, theta=10_000.0):
    return tuple(theta ** (-2 * i / head_dim) for i in range(head_dim // 2))


def random_heads(
    seed, *, n_heads=4, n_kv=2, head_dim=8, rotary=None, bias=True, width=WIDTH, scale=None
):
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=rng)

    return Heads(
        q=normal(n_heads * head_dim, width),
        k=normal(n_kv * head_dim, width),
        v=normal(n_kv * head_dim, width),
        o=normal(width, n_heads * head_dim),
        q_bias=normal(n_heads * head_dim) if bias else None,
        k_bias=normal(n_kv * head_dim) if bias else None,
        v_bias=normal(n_kv * head_dim) if bias else None,
        n_heads=n_heads,
        n_kv=n_kv,
        head_dim=head_dim,
        frequencies=frequencies(head_dim) if rotary is None else rotary,
        attention_scale=head_dim**-0.5 if scale is None else scale,
    )


def attend(heads, states):
    """A causal attention layer as transformers computes it, states (tokens, width)."""

    def split(weight, bias, n):
        rows = states @ weight.T + (0 if bias is None else bias)
        return rows.view(len(states), n, heads.head_dim).transpose(0, 1)

    n_pairs = len(heads.frequencies)
    angle = torch.arange(len(states))[:, None] * torch.tensor(heads.frequencies)

    def turn(rows):
        first, second, rest = rows.split(
            [n_pairs, n_pairs, heads.head_dim - 2 * n_pairs], dim=-1
        )
        return torch.cat(
            [
                first * angle.cos() - second * angle.sin(),
                second * angle.cos() + first * angle.sin(),
                rest,
            ],
            dim=-1,
        )

    shared = heads.n_heads // heads.n_kv
    mixed = scaled_dot_product_attention(
        turn(split(heads.q, heads.q_bias, heads.n_heads)),
        turn(split(heads.k, heads.k_bias, heads.n_kv)).repeat_interleave(shared, dim=0),
        split(heads.v, heads.v_bias, heads.n_kv).repeat_interleave(shared, dim=0),
        is_causal=True,
        scale=heads.attention_scale,
    )
    return mixed.transpose(0, 1).flatten(1) @ heads.o.T


def assert_same_function(heads, others):
    width = heads.o.shape[0]
    states = torch.randn(7, width, generator=torch.Generator().manual_seed(0)) / width**0.5
    torch.testing.assert_close(
        attend(heads, states), attend(others, states), rtol=1e-4, atol=1e-5
    )


def assert_same_weights(heads, others):
    for name in ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias"):
        torch.testing.assert_close(
            getattr(heads, name), getattr(others, name), rtol=1e-5, atol=2e-5, msg=name
        )


def random_rotation(size, seed):
    rng = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=rng))[0]


def random_rotary_rotations(heads, seed):
    """One rotation per rotary pair, any orthogonal matrix in the rest, (head_dim, head_dim)."""
    rng = torch.Generator().manual_seed(seed)
    n_pairs = len(heads.frequencies)
    angle = 6.28 * torch.rand(n_pairs, generator=rng)
    turns = torch.zeros(heads.head_dim, heads.head_dim)
    pair = torch.arange(n_pairs)
    turns[pair, pair] = turns[pair + n_pairs, pair + n_pairs] = angle.cos()
    turns[pair, pair + n_pairs], turns[pair + n_pairs, pair] = -angle.sin(), angle.sin()
    turns[2 * n_pairs :, 2 * n_pairs :] = random_rotation(heads.head_dim - 2 * n_pairs, seed)
    return turns


def disguise(heads, *, groups=(1, 0), inside=((1, 0), (0, 1)), rotate_inner=True):
    """Permute groups, permute heads inside them and turn their inner bases, head by head."""
    size, shared = heads.head_dim, heads.n_heads // heads.n_kv
    rows = {name: [] for name in ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias")}
    for place, group in enumerate(groups):
        qk = random_rotary_rotations(heads, place) if rotate_inner else torch.eye(size)
        vo = random_rotation(size, 10 + place)
        kv = slice(group * size, (group + 1) * size)
        rows["k"].append(qk @ heads.k[kv])
        rows["v"].append(vo @ heads.v[kv])
        if heads.q_bias is not None:
            rows["k_bias"].append(qk @ heads.k_bias[kv])
            rows["v_bias"].append(vo @ heads.v_bias[kv])
        for local in inside[place]:
            head = group * shared + local
            q = slice(head * size, (head + 1) * size)
            rows["q"].append(qk @ heads.q[q])
            rows["o"].append(vo @ heads.o[:, q].T)
            if heads.q_bias is not None:
                rows["q_bias"].append(qk @ heads.q_bias[q])
    joined = {name: torch.cat(parts) for name, parts in rows.items() if parts}
    return replace(heads, **joined | {"o": joined["o"].T})
