import torch

from seme.elementwise import add_to_pivot, agreement, task_vectors, total


def test_task_vectors_are_the_exact_differences():
    rng = torch.Generator().manual_seed(0)
    pivot, *sources = (torch.randn(1000, generator=rng) for _ in range(4))
    found = task_vectors(pivot, sources)
    expected = torch.stack(sources).double() - pivot.double()
    assert torch.equal(torch.stack(found), expected)


def test_a_source_added_back_is_that_source_where_float32_would_miss_it():
    rng = torch.Generator().manual_seed(0)
    pivot, source = (torch.randn(10_000, generator=rng) for _ in range(2))
    assert not torch.equal(pivot + (source - pivot), source)
    assert torch.equal(add_to_pivot(pivot, task_vectors(pivot, [source])[0]), source)


def test_tensors_are_added_without_writing_to_them():
    tensors = [torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([4.0])]
    assert total(tensors).tolist() == [7.0]
    assert [tensor.item() for tensor in tensors] == [1.0, 2.0, 4.0]


def test_a_change_of_zero_leaves_the_sign_of_a_zero():
    pivot = torch.tensor([-0.0, 0.0, -0.0])
    merged = add_to_pivot(pivot, torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64))
    assert merged.tolist() == [0.0, 0.0, 2.0]
    assert merged.signbit().tolist() == [True, False, False]


def test_the_sum_elects_the_sign_and_zeros_and_draws_elect_nothing():
    tv = torch.tensor([[4.0, -1.0, 0.0, 2.0], [-1.0, -3.0, 5.0, -2.0], [0.0, 2.0, 0.0, 0.0]])
    elected, survivors = agreement(list(tv.double()))
    assert elected.tolist() == [1.0, -1.0, 1.0, 0.0]
    found = [values.tolist() for values in survivors]
    assert found == [[4, 1, 0, 0], [0, 3, 5, 0], [0, 0, 0, 0]]
