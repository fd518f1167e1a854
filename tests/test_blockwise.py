import torch

from seme.blockwise import add_to_pivot, agreeing, task_vector_blocks


def random_models(n):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, generator=rng), [torch.randn(n, generator=rng) for _ in range(3)]


def test_blocks_cover_a_long_tensor_in_order_with_exact_differences():
    pivot, sources = random_models(70_000)
    found = list(task_vector_blocks(pivot, sources))
    expected = torch.stack(sources).double() - pivot.double()
    assert len(found) > 1
    assert [block.span.start for block in found[1:]] == [
        block.span.stop for block in found[:-1]
    ]
    assert torch.equal(torch.cat([block.tv for block in found], dim=1), expected)


def test_chosen_elements_come_with_their_positions_in_the_whole_tensor():
    pivot, sources = random_models(70_000)
    chosen = torch.zeros(70_000, dtype=torch.bool)
    chosen[[3, 40_000, 69_999]] = True
    found = list(task_vector_blocks(pivot, sources, chosen))
    assert torch.cat([block.where for block in found]).tolist() == [3, 40_000, 69_999]
    expected = torch.stack(sources)[:, chosen].double() - pivot[chosen].double()
    assert torch.equal(torch.cat([block.tv for block in found], dim=1), expected)


def test_only_chosen_elements_change():
    pivot, sources = random_models(70_000)
    chosen = pivot > 1
    merged = add_to_pivot(pivot, sources[:1], lambda tv, _: tv[0], chosen)
    assert torch.equal(merged, torch.where(chosen, sources[0], pivot))


def test_a_change_of_zero_leaves_the_sign_of_a_zero():
    pivot = torch.tensor([-0.0, 0.0, -0.0])
    merged = add_to_pivot(pivot, [torch.tensor([0.0, 0.0, 2.0])], lambda tv, _: tv[0])
    assert merged.tolist() == [0.0, 0.0, 2.0]
    assert merged.signbit().tolist() == [True, False, False]


def test_the_sum_elects_the_sign_and_zeros_and_draws_elect_nothing():
    tv = torch.tensor([[4.0, -1.0, 0.0, 2.0], [-1.0, -3.0, 5.0, -2.0], [0.0, 2.0, 0.0, 0.0]])
    elected, survivors = agreeing(tv)
    assert elected.tolist() == [1.0, -1.0, 1.0, 0.0]
    assert survivors.tolist() == [[4, 1, 0, 0], [0, 3, 5, 0], [0, 0, 0, 0]]
