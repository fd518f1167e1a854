"""Layer swapping: which layers come from which source."""

import pytest
import torch

from baselines.layer_swap import layer_of, merge, prepare, shares_of_first
from tests.in_memory import merge_models, models_of

AS_PAPER = {"bottom": None, "top": None, "transition": None}


def stack(value, n_layers, prefix="model.layers"):
    """A model of tensors of one number."""
    layers = {f"{prefix}.{k}.mlp.weight": torch.tensor([value]) for k in range(n_layers)}
    return {"model.embed_tokens.weight": torch.tensor([value]), **layers}


def swapped(n_layers, **counts):
    first, second = stack(2.0, n_layers), stack(4.0, n_layers)
    merged = merge_models(merge, stack(9.0, n_layers), first, second, **AS_PAPER | counts)
    return [tensor.item() for tensor in merged.values()]


def test_outer_layers_are_the_first_sources_and_the_middle_is_the_seconds():
    # the embedding, then six layers: bottom 2, transition, middle, transition, top 1
    assert swapped(6, bottom=2, top=1, transition=1) == [2, 2, 2, 3, 4, 3, 2]
    assert swapped(3, bottom=1, top=0, transition=0) == [2, 2, 4, 4]


def test_paper_counts_are_scaled_to_the_depth():
    full = prepare(models_of(*[stack(0.0, 32)] * 3), **AS_PAPER).diagnostics()["first_source"]
    assert full == [1.0] * 5 + [0.5] + [0.0] * 23 + [0.5] + [1.0] * 2
    half = prepare(models_of(*[stack(0.0, 16)] * 3), **AS_PAPER).diagnostics()["first_source"]
    assert (half.count(1.0), half.count(0.5), half.count(0.0)) == (3, 0, 13)


def test_no_weights_are_read_to_assign_layers():
    models = models_of(*[stack(0.0, 4)] * 3)
    prepare(models, **AS_PAPER)
    assert models.pivot.n_opened == 0


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.12.mlp.experts.3.w1.weight", 12),
        ("transformer.h.0.attn.c_attn.weight", 0),
        ("lm_head.weight", None),
        ("model.norm1.weight", None),
    ],
)
def test_layer_of_a_name(name, layer):
    assert layer_of(name) == layer


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="bottom 2, top 1 and two transitions of 1 must fit into"
                       " the 4 layers"):  # fmt: skip
        shares_of_first(4, bottom=2, top=1, transition=1)
    with pytest.raises(ValueError, match="bottom must be a whole number of at least 0, got -1"):
        swapped(4, bottom=-1)
    with pytest.raises(ValueError, match="top must be a whole number of at least 0"):
        swapped(4, top=0.5)


def test_three_sources_are_refused():
    with pytest.raises(ValueError, match="merges exactly 2 sources into the pivot, got 3"):
        merge_models(merge, *[stack(0.0, 4)] * 4, **AS_PAPER)
