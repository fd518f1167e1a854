import pytest
import torch

from seme.alignment.diagnosis import random_vectors, recomposition_cosine


def test_an_orthonormal_basis_recomposes_every_direction():
    r = random_vectors(5, 4)
    assert recomposition_cosine(r, torch.eye(4)).tolist() == pytest.approx([1.0] * 5)


def test_a_worked_example():
    # r is (0.6, 0.8); e1 stands twice and e2 once, so it becomes (1.2, 0.8), whose inner
    # product with r is 1.36 and whose squared length is 2.08
    found = recomposition_cosine(
        torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [7.0, 0.0], [0.0, 0.5]])
    )
    assert found.item() == pytest.approx(1.36 / 2.08**0.5)


def test_lengths_and_signs_of_vectors_do_not_count_and_zeros_say_nothing():
    r, vectors = random_vectors(3, 4), random_vectors(9, 4)
    changed = torch.cat([vectors * torch.linspace(-2, 3, 9)[:, None], torch.zeros(1, 4)])
    assert torch.allclose(recomposition_cosine(r, vectors), recomposition_cosine(r, changed))


def test_random_vectors_nearly_pass_so_the_test_alone_proves_nothing():
    r = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    assert recomposition_cosine(r, random_vectors(1600, 16)).mean() > 0.97
    assert recomposition_cosine(r, random_vectors(8, 16)).mean() < 0.9
