"""Names of tensors: optional prefixes, wrappers, constants."""

import pytest

from seme.architecture.tensor_names import advice_on_wrapper, is_constant, names_as_in


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
