"""Names of tensors: optional prefixes, wrappers, constants."""

import pytest

from seme.architecture.tensor_names import (
    advice_on_wrapper,
    is_constant,
    layer_places,
    names_as_in,
    stacked_names,
)


@pytest.mark.parametrize(
    ("name", "shape", "constant"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (4,), True),
        ("rotary_pos_emb.inv_freq", (4,), True),
        ("gpt_neox.layers.0.attention.masked_bias", (), True),
        ("gpt_neox.layers.0.attention.bias", (1, 1, 8, 8), True),
        ("h.0.attn.bias", (1, 1, 8, 8), True),
        ("h.0.attn.bias", (8,), False),
        ("embeddings.position_ids", (1, 8), True),
        ("model.layers.0.self_attn.q_proj.bias", (8,), False),
        ("model.embed_tokens.weight", (8, 2), False),
    ],
)
def test_buffers_that_no_training_changes_are_constants(name, shape, constant):
    assert is_constant(name, shape) is constant


@pytest.mark.parametrize("prefix", ["transformer.", "model.", "gpt_neox.", "rwkv."])
def test_a_prefix_that_only_one_model_has_is_optional(prefix):
    bare, full = {"a", "b"}, {f"{prefix}a", f"{prefix}b"}
    assert names_as_in(full, bare) == {f"{prefix}{name}": name for name in bare}
    assert names_as_in(bare, full) == {name: f"{prefix}{name}" for name in bare}


def test_other_names_stand_for_themselves():
    assert names_as_in({"a"}, {"b", "c"}) == {"b": "b", "c": "c"}
    with_head = {"model.a", "model.b", "lm_head.weight"}
    assert names_as_in(with_head, with_head) == {name: name for name in with_head}
    assert names_as_in(with_head, {"a", "b", "lm_head.weight"}) == {
        "model.a": "a", "model.b": "b", "lm_head.weight": "lm_head.weight",
    }  # fmt: skip


def test_names_that_become_one_are_not_renamed():
    assert names_as_in({"model.a"}, {"a", "model.a"}) == {"a": "a", "model.a": "model.a"}


def test_advice_names_the_wrapper():
    assert advice_on_wrapper({"model.a"}, "F") == ""
    assert "torch.compile" in advice_on_wrapper({"_orig_mod.model.a"}, "F")
    assert "text and images" in advice_on_wrapper({"vision.a", "language_model.a"}, "F")


def test_layer_is_the_first_number_of_a_name():
    places = layer_places(["embed", "h.0.experts.7.w", "h.1.w", "tower.blocks.0.w", "fc1.w"])
    assert {name: (p.stack, p.layer, p.n_layers) for name, p in places.items()} == {
        "h.0.experts.7.w": ("h.", 0, 2),
        "h.1.w": ("h.", 1, 2),
        "tower.blocks.0.w": ("tower.blocks.", 0, 1),
    }
    assert places["h.0.experts.7.w"].name_in(12) == "h.12.experts.7.w"


def test_stacked_names_give_the_own_ones():
    names = ["embed", "h.0.w", "h.1.w"]
    assert stacked_names(names, 2, [1, 0, 1]) == {
        "embed": "embed", "h.0.w": "h.1.w", "h.1.w": "h.0.w", "h.2.w": "h.1.w",
    }  # fmt: skip
    with pytest.raises(ValueError, match="where one stack has the model's 3 layers"):
        stacked_names(names, 3, [0])
