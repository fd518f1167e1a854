import re

import pytest
import torch

from scripts.diagnose import cost_table, layer_table, main, random_vectors, recomposition_cosine
from tests.diagnostics import DIAGNOSTICS, NARROWER, cells


def test_a_pool_is_diagnosed_without_being_merged(tmp_path, capsys):
    assert main(["models=small_into_base", f"output={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "small: layer by layer",
        "0.33 x 0 + 0.67 x 1",  # three layers onto four
        "Seconds per stage",
        "base: cosine of recomposed directions",
        "random vectors",
    ):
        assert text in printed
    assert [path.name for path in tmp_path.rglob("*.*")] == ["small_into_base.svg"]
    assert "semantic bases" in (tmp_path / "diagnostics/small_into_base.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models=nowhere"], "models must be one of .*'zoo'.*, got 'nowhere'"),
        (["method.alignment.refine=-1"], "refine must be a whole number of at least 0, got -1"),
        (["method.alignment.refined=1"], "refined"),
    ],
)
def test_invalid_pool_or_override_prints_one_error(arguments, message, capsys):
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(message, printed.err)


def test_layer_table_has_source_layers_and_shares():
    assert cells(layer_table(NARROWER, "small")) == [
        ("0", "1.00 x 0", "0.50", "0.25"),
        ("1", "0.25 x 0 + 0.75 x 1", "0.10", ""),
    ]


def test_cost_table_has_a_column_per_stage():
    table = cost_table(DIAGNOSTICS, ["code", "small"])
    assert [column.header for column in table.columns] == ["source", "bases", "units"]
    assert cells(table) == [("code", "0.50", "0.00"), ("small", "1.00", "2.25")]


def test_orthonormal_basis_has_recomposition_cosine_one():
    r = random_vectors(5, 4)
    assert recomposition_cosine(r, torch.eye(4)).tolist() == pytest.approx([1.0] * 5)


def test_recomposition_cosine_of_a_worked_example():
    # r is (0.6, 0.8); e1 is there twice and e2 once, so it becomes (1.2, 0.8), whose inner
    # product with r is 1.36 and whose squared length is 2.08
    cosine = recomposition_cosine(
        torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [7.0, 0.0], [0.0, 0.5]])
    )
    assert cosine.item() == pytest.approx(1.36 / 2.08**0.5)


def test_recomposition_cosine_ignores_lengths_signs_and_zero_vectors():
    r, vectors = random_vectors(3, 4), random_vectors(9, 4)
    changed = torch.cat([vectors * torch.linspace(-2, 3, 9)[:, None], torch.zeros(1, 4)])
    assert torch.allclose(recomposition_cosine(r, vectors), recomposition_cosine(r, changed))


def test_many_random_vectors_have_recomposition_cosine_near_one():
    r = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    assert recomposition_cosine(r, random_vectors(1600, 16)).mean() > 0.97
    assert recomposition_cosine(r, random_vectors(8, 16)).mean() < 0.9
