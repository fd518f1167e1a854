"""CABS: groups, order of the sources, disjoint masks, a naive loop."""

import pytest
import torch

from baselines.cabs import choose, merge
from tests.in_memory import merge_one, random_models


def cabs(pivot, *sources, density=0.5, group=4, lam=1.0, weights=None):
    tensors = [torch.as_tensor(source) for source in sources]
    options = {"density": density, "group": group, "lam": lam, "weights": weights}
    return merge_one(merge, torch.as_tensor(pivot), tensors, **options)


def test_every_group_keeps_its_largest():
    # groups [9, 8, 1, 2] and [1, 0, -3, 2]: two of each
    merged = cabs([0.0] * 8, [9.0, 8.0, 1.0, 2.0, 1.0, 0.0, -3.0, 2.0])
    assert merged.tolist() == [9.0, 8.0, 0.0, 0.0, 0.0, 0.0, -3.0, 2.0]


def test_later_sources_choose_among_what_is_left():
    first, second = [9.0, 8.0, 1.0, 2.0], [7.0, 6.0, 5.0, -4.0]
    assert cabs([1.0] * 4, [x + 1 for x in first], [x + 1 for x in second]).tolist() == [
        10.0, 9.0, 6.0, -3.0,
    ]  # fmt: skip
    assert cabs([0.0] * 4, second, first).tolist() == [7.0, 6.0, 1.0, 2.0]
    third = cabs([0.0] * 4, first, second, [3.0] * 4)
    assert third.tolist() == [9.0, 8.0, 5.0, -4.0]


def test_last_group_keeps_its_share_and_zeros_are_never_kept():
    assert cabs([0.0] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).tolist() == [0, 0, 3, 4, 0, 6]
    kept = choose(torch.tensor([[0.0, 0.0, 0.0, 1.0]]), 0.5, 4)
    assert kept.tolist() == [[False, False, False, True]]


@pytest.mark.parametrize(("density", "group"), [(0.25, 256), (0.4, 10)])
def test_merge_agrees_with_a_loop_over_groups(density, group):
    pivot, sources = random_models((37, 41))
    base = pivot.double().flatten()
    expected, taken = base.clone(), torch.zeros(base.numel(), dtype=torch.bool)
    for weight, source in zip([1.0, 0.5, 2.0], sources, strict=True):
        magnitudes = (source - pivot).flatten().abs()
        chosen = torch.zeros_like(taken)
        for start in range(0, base.numel(), group):
            places = range(start, min(start + group, base.numel()))
            free = sorted((i for i in places if not taken[i]), key=lambda i: -magnitudes[i])
            chosen[free[: round(density * len(places))]] = True
        tv = source.double().flatten() - base
        expected[chosen] += 0.7 * weight * tv[chosen]
        taken |= chosen
    merged = cabs(pivot, *sources, density=density, group=group, lam=0.7, weights=[1, 0.5, 2])
    assert torch.equal(merged, expected.float().view(37, 41))


def test_groups_do_not_end_where_pieces_do():
    # 300,000 elements are ranked in pieces of whole groups of 1,000: one in a thousand stays
    source = torch.arange(1.0, 300_001.0)
    merged = cabs(torch.zeros(300_000), source, density=0.001, group=1000)
    assert merged.nonzero().flatten().tolist() == list(range(999, 300_000, 1000))


def test_everything_kept_of_one_source_is_that_source():
    pivot, (source,) = random_models(n_sources=1)
    assert torch.equal(cabs(pivot, source, density=1.0), source)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"density": 1.5}, r"density must be in \(0, 1\], got 1.5"),
        (
            {"density": 0.1},
            "density must be larger, so that one of 4 elements is kept, got 0.1",
        ),
        ({"group": 0}, "group must be a whole number of at least 1, got 0"),
        ({"weights": [1.0, 2.0]}, "weights must hold one number per source"),
        ({"lam": float("inf")}, "lam must be a finite number, got inf"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        cabs([0.0], [1.0], **bad)
