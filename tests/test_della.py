"""DELLA: keep probabilities by rank, the formula with the same draws, mergekit."""

import hashlib

import numpy as np
import pytest
import torch
from mergekit.merge_methods.api import merge_tensors

from baselines.della import disjoint_mean, keep_probabilities, merge
from seme.kernels import ranked_draws
from tests.in_memory import merge_models, merge_one, random_models


def della(pivot, *sources, density=0.5, epsilon=0.1, lam=1.0, **how):
    tensors = [torch.as_tensor(source) for source in sources]
    options = {"density": density, "epsilon": epsilon, "lam": lam}
    return merge_one(merge, torch.as_tensor(pivot), tensors, **options, **how)


def test_keep_probability_grows_with_the_rank():
    assert keep_probabilities(3, 0.5, 0.25).tolist() == [0.25, 0.5, 0.75]
    assert keep_probabilities(1, 0.5, 0.25).tolist() == [0.5]


def test_disjoint_mean_is_of_the_values_with_the_elected_sign():
    tv = [torch.tensor(row) for row in ([4.0, -1.0, 0.0], [2.0, -3.0, 0.0], [-1.0, 2.0, 0.0])]
    assert disjoint_mean(tv).tolist() == [3.0, -2.0, 0.0]


def test_survivors_are_divided_by_their_own_probability():
    pivot, sources = random_models((30, 40), n_sources=1)
    ratio = ((della(pivot, *sources).double() - pivot) / (sources[0].double() - pivot)).numpy()
    ranks = (sources[0] - pivot).abs().argsort(dim=1).argsort(dim=1)
    probability = 0.4 + 0.2 * ranks.numpy() / 39
    kept = np.abs(ratio) > 0.5
    assert ratio[kept] == pytest.approx(1 / probability[kept], rel=1e-3)
    assert np.abs(ratio[~kept]).max() == 0


def test_share_kept_follows_the_probabilities():
    pivot, sources = torch.zeros(400, 1000), [torch.arange(1.0, 1001.0).repeat(400, 1)]
    kept = della(pivot, *sources, density=0.3, epsilon=0.2) != 0
    share = kept.view(400, 10, 100).double().mean(dim=(0, 2))
    expected = torch.linspace(0.12, 0.48, 10, dtype=torch.float64)  # 0.1 to 0.5, by tenths
    # a binomial of 40,000 has a standard deviation of at most 0.0025
    assert torch.allclose(share, expected, atol=0.0125, rtol=0)


def test_mean_over_many_draws_is_the_source():
    pivot, row = torch.zeros(4000, 50), torch.linspace(1.0, 2.0, 50)
    merged = della(pivot, row.repeat(4000, 1), density=0.5, epsilon=0.4)
    # at the least probability, 0.1, the standard deviation is 3 / sqrt(4000) = 0.05
    assert torch.allclose(merged.mean(dim=0), row, atol=0.25, rtol=0)


@pytest.mark.usefixtures("code_path")
def test_everything_kept_agrees_with_mergekit():
    pivot, sources = random_models((30, 40))
    merged = della(pivot, *sources, density=1.0, epsilon=0.0, lam=1.1)
    parameters = {"density": 1.0, "weight": 1.0, "lambda": 1.1, "normalize": True}
    peer = merge_tensors([pivot, *sources], "della", parameters=parameters, base_index=0)
    assert torch.allclose(merged, peer, atol=1e-6, rtol=0)


def test_compiled_loops_have_the_bits_of_torch(in_torch):
    pivot, sources = random_models((70, 600))
    pivot[:, ::5] = sources[1][:, ::5]  # equal magnitudes, elements without a change
    compiled = della(pivot, *sources, density=0.3, epsilon=0.2, lam=1.1)
    in_torch()
    in_steps = della(pivot, *sources, density=0.3, epsilon=0.2, lam=1.1)
    assert torch.equal(compiled.view(torch.int32), in_steps.view(torch.int32))


def magnitudes(kind, shape):
    rng = torch.Generator().manual_seed(3)
    values = torch.randn(shape, generator=rng)
    return {
        "normal": values,
        "of bfloat16": values.bfloat16().float(),
        "of many sizes": values * 2.0 ** torch.randint(-60, 60, shape, generator=rng),
        "close together": 1 + values.abs() * 2**-13,
        "few": values.round(),
        "none": values * 0,
        "one": values * (torch.arange(shape[-1]) == 1),
    }[kind]


@pytest.mark.parametrize("n_columns", [1, 2, 3, 64, 65, 3000, 70_000])
@pytest.mark.parametrize(
    "kind", ["normal", "of bfloat16", "of many sizes", "close together", "few", "none", "one"]
)
def test_rows_are_ranked_as_by_a_stable_sort(kind, n_columns):
    values = magnitudes(kind, (2, 3, n_columns)).numpy()
    pivot = np.zeros(values.shape[1:], dtype=np.float32)
    expected = np.argsort(np.abs(values), axis=2, kind="stable")
    assert np.array_equal(ranked_draws._ascending(pivot, values, 0, 3), expected)
    assert np.array_equal(ranked_draws._ascending(pivot, values, 1, 3), expected[:, 1:])


def test_rows_that_keys_cannot_tell_apart_are_sorted_by_all_bits():
    values = magnitudes("close together", (1, 1, 3000)).numpy()
    keys = np.arange(3000, dtype=np.uint32).reshape(values.shape)
    unordered = np.ones((1, 1), dtype=np.bool_)
    ranked_draws._finish_order(np.zeros_like(values[0]), values, 0, 12, keys, unordered)
    assert unordered.all()


@pytest.mark.parametrize(
    ("kind", "exact"), [("of bfloat16", True), ("none", True), ("normal", False),
                        ("of many sizes", False), ("close together", False)],
)  # fmt: skip
def test_keys_that_hold_all_of_a_magnitude_are_known(kind, exact):
    values = magnitudes(kind, (1, 1, 3000)).numpy()
    keys, unordered = np.empty(values.shape, dtype=np.uint32), np.empty((1, 1), dtype=np.bool_)
    ranked_draws._keys(np.zeros_like(values[0]), values, 0, 12, keys, unordered)
    assert unordered.item() is not exact


def test_draws_depend_on_name_seed_and_source():
    pivot, source = torch.zeros(4, 50), torch.ones(4, 50)
    models = [{"a": pivot, "b": pivot}, {"a": source, "b": source}]
    options = {"density": 0.5, "epsilon": 0.1, "lam": 1.0}
    merged = merge_models(merge, *models, **options)
    assert not torch.equal(merged["a"], merged["b"])
    other = merge_models(merge, *models, seed=1, **options)
    assert not torch.equal(merged["a"], other["a"])
    assert not torch.equal(della(pivot, source, -source), torch.zeros(4, 50))


@pytest.mark.usefixtures("code_path")
@pytest.mark.parametrize("shape", [(700, 300), (40_000,), (3, 7, 11)])
def test_merge_agrees_with_a_loop_over_rows(shape):
    pivot, sources = random_models(shape)
    merged = della(pivot, *sources, density=0.3, epsilon=0.2, lam=1.1)
    base = pivot.reshape(shape[0] if len(shape) > 1 else 1, -1).numpy().astype(np.float64)
    pruned = []
    for k, source in enumerate(sources):
        seed = hashlib.blake2b(f"0\0w\0{k}".encode(), digest_size=16).digest()
        words = np.random.PCG64(int.from_bytes(seed)).random_raw(base.size)
        uniform = (words >> np.uint64(11)).reshape(base.shape) * 2.0**-53
        rows = np.zeros_like(base)
        for row, tv, u in zip(
            rows, source.reshape(base.shape).numpy() - base, uniform, strict=True
        ):
            order = np.argsort(np.abs(tv.astype(np.float32)), kind="stable")
            for rank, column in enumerate(order):
                p = 0.1 + 0.4 * rank / (len(tv) - 1)
                row[column] = tv[column] / p if u[rank] < p else 0.0
        pruned.append(rows)
    values = np.stack(pruned)
    agrees = values * np.sign(values.sum(axis=0)) > 0
    mean = (values * agrees).sum(axis=0) / np.maximum(agrees.sum(axis=0), 1)
    expected = torch.from_numpy(base + 1.1 * mean).view(shape)
    assert torch.allclose(merged.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"epsilon": -0.1}, r"epsilon must be in \[0, 1\], got -0.1"),
        ({"density": 0.1, "epsilon": 0.1}, "epsilon must be less than density .* got 0.1"),
        ({"density": 0.9, "epsilon": 0.2}, "epsilon must be less than density .* got 0.2"),
        ({"lam": None}, "lam must be a finite number, got None"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        della([0.0], [1.0], **bad)
