"""SplitMix64's published numbers, and Bernoulli samples from a Python oracle."""

import numpy as np
import pytest
import torch

from seme.kernels.random_bits import _number, bernoulli

PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
"""The first splitmix64 with the seed 1234567, as the reference implementation gives them."""


def splitmix64(seed, index):
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def expected_sample(seed, place, probability):
    """One bits: 16 bits, and 32 more where those are the probability's own."""
    bits = splitmix64(seed, place // 4) >> 16 * (place % 4) & 0xFFFF
    if bits == int(probability * 2**16):
        bits += (splitmix64(seed, 2**62 + place) >> 32) / 2**32
    return bits < round(probability * 2**48) / 2**32


def test_splitmix64_equals_the_reference_implementation():
    assert [int(_number(np.uint64(1234567), np.uint64(i))) for i in range(5)] == PUBLISHED
    assert [splitmix64(1234567, i) for i in range(5)] == PUBLISHED


@pytest.mark.parametrize("probability", [0.0, 2**-40, 1e-5, 0.2, 0.5, 1 - 2**-40, 1.0])
@pytest.mark.parametrize(
    ("start", "n"), [(0, 5000), (1, 1), (3, 4099), (2**33 + 2, 1026), (7, 0)]
)
def test_bernoulli_samples_equal_the_definition(start, n, probability):
    seeds = [0, 2**64 - 1, 987654321]
    samples = bernoulli(seeds, start, n, probability)
    assert samples.shape == (3, n)
    expected = [[expected_sample(s, start + i, probability) for i in range(n)] for s in seeds]
    assert samples.tolist() == expected


def test_probabilities_finer_than_16_bits_are_exact():
    probability = (100 + 0.25) / 2**16
    n = 1 << 24
    share = bernoulli([5], 0, n, probability).double().mean().item()
    spread = (probability / n) ** 0.5
    assert share == pytest.approx(probability, abs=4 * spread)
    assert bernoulli([5], 0, n, 100 / 2**16).sum() < bernoulli([5], 0, n, probability).sum()


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_bernoulli_is_unbiased_at_every_position(probability):
    n = 400_000
    places = bernoulli([11], 0, 4 * n, probability).view(n, 4).double().mean(dim=0)
    spread = (probability * (1 - probability) / n) ** 0.5
    assert torch.all((places - probability).abs() < 5 * spread)
