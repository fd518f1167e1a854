"""Alignment diagnosis: tables of a found alignment, and recomposed directions."""

import io

import pytest
import torch
from rich.console import Console

from seme.alignment.diagnosis import (
    cost_table,
    layer_table,
    random_vectors,
    recomposition_cosine,
    source_table,
)

LAYERS = [
    {
        "source_layers": [0],
        "shares": [1.0],
        "heads_similarity": 0.5,
        "neurons_similarity": 0.25,
    },
    {"source_layers": [0, 1], "shares": [0.25, 0.75], "heads_similarity": 0.1},
]
NEAR = {
    "identity_shortcut": True, "distance_from_identity": 0.02, "overlap": 1.0, "condition": 31.6,
    "ridge": 0.0, "layers": [], "seconds": {"bases": 0.5},
}  # fmt: skip
FAR = NEAR | {
    "identity_shortcut": False, "distance_from_identity": None, "overlap": 0.948, "ridge": 1e-3,
    "layers": LAYERS, "seconds": {"bases": 1.0, "units": 2.25},
}  # fmt: skip
FUSION = {"selected": 0.125, "erased": 0.5, "coefficients": [0.75, 0.25]}
FOUND = {"sources": [NEAR, FAR], "fusion": FUSION}


def printed(table):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def rows(table):
    return [line.split() for line in printed(table).splitlines() if line.startswith("│")]


@pytest.fixture
def text():
    return printed(source_table(FOUND, ["code", "[b]small[/]"]))


def test_a_line_says_where_a_source_stands_and_what_it_is_worth():
    near, far = rows(source_table(FOUND, ["code", "small"]))
    assert near == [
        "│",
        "code",
        "│",
        "the",
        "same,",
        "||T-I||",
        "0.020",
        "│",
        "100",
        "%",
        "│",
        "31.6",
        "│",
        "│",
        "│",
        "0.750",
        "│",
        "0.50",
        "│",
    ]
    # heads (0.5 + 0.1) / 2; neurons of the one layer that has them
    assert far == (
        [
            "│",
            "small",
            "│",
            "other",
            "width",
            "│",
            "95",
            "%",
            "│",
            "31.6",
            "(ridge)",
            "│",
            "0.30",
            "│",
            "0.25",
            "│",
            "0.250",
            "│",
            "3.25",
            "│",
        ]
    )


def test_what_was_selected_and_erased_stands_below_and_names_are_no_markup(text):
    assert "12.5 % of the elements selected, 50.0 % of their deltas erased" in text
    assert "[b]small[/]" in text


def test_before_a_merge_there_are_no_weights():
    nothing = {"selected": 0.0, "erased": 0.0, "coefficients": [0.0, 0.0]}
    text = printed(source_table(FOUND | {"fusion": nothing}, ["code", "small"]))
    assert "selected" not in text
    assert "0.000" not in text


def test_layers_name_the_source_layers_they_take_and_in_which_shares():
    first, second = rows(layer_table(FAR, "small"))
    assert first == ["│", "0", "│", "1.00", "x", "0", "│", "0.50", "│", "0.25", "│"]
    assert second == [
        "│",
        "1",
        "│",
        "0.25",
        "x",
        "0",
        "+",
        "0.75",
        "x",
        "1",
        "│",
        "0.10",
        "│",
        "│",
    ]


def test_costs_have_a_column_for_every_stage():
    text = printed(cost_table(FOUND, ["code", "small"]))
    assert "bases" in text
    assert "units" in text
    assert rows(cost_table(FOUND, ["code", "small"]))[0] == [
        "│",
        "code",
        "│",
        "0.50",
        "│",
        "0.00",
        "│",
    ]


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
