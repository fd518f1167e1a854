"""The audit of a checkpoint's names."""

import pytest

from seme.architecture.families import family_of
from seme.architecture.model import layout_of, places_in
from seme.architecture.parts import Part, Place

LLAMA = family_of({"model_type": "llama", "num_hidden_layers": 2})
GPT2 = family_of({"model_type": "gpt2", "n_layer": 1})
MIXTURE = family_of({"model_type": "qwen3_moe", "num_hidden_layers": 2, "num_experts": 2})
LAYER = (
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
)
MLP = ("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight")
ENDS = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")


def in_layers(names, layers=(0, 1)):
    return [f"model.layers.{layer}.{name}" for layer in layers for name in names]


COMPLETE = [*ENDS, *in_layers((*LAYER, *MLP))]
QK_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
EXPERTS = [
    f"mlp.experts.{n}.{kind}_proj.weight" for n in (0, 1) for kind in ("gate", "up", "down")
]
# layer 0 is a mixture, layer 1 is dense
MIXED = [
    *ENDS,
    *in_layers((*LAYER, *QK_NORMS)),
    *in_layers(["mlp.gate.weight", *EXPERTS], (0,)),
    *in_layers(MLP, (1,)),
]


def test_every_tensor_of_a_complete_checkpoint_has_its_place():
    places = places_in(LLAMA, COMPLETE)
    assert list(places) == COMPLETE
    assert places["lm_head.weight"] == (Place(Part.HEAD),)
    assert places["model.layers.1.self_attn.o_proj.weight"] == (Place(Part.O, 1),)


def test_a_fused_tensor_has_several_places_in_the_order_it_holds_them():
    name = "transformer.h.0.attn.c_attn.bias"
    layout = layout_of(GPT2, name)
    assert layout is not None
    assert layout.parts == (Part.Q_BIAS, Part.K_BIAS, Part.V_BIAS)
    assert layout_of(GPT2, "h.0.attn.c_attn.bias") == layout


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.x.input_layernorm.weight",
        "model.layers.00.input_layernorm.weight",
        "visual.model.layers.0.input_layernorm.weight",
        "embed_tokens.weight",
    ],
)
def test_a_tensor_without_a_role_is_named(name):
    with pytest.raises(
        ValueError, match=rf"of a llama model needs a role, 1 have none: .*{name}"
    ):
        places_in(LLAMA, [*COMPLETE, name])


def test_many_tensors_without_a_role_are_counted_and_the_first_three_named():
    with pytest.raises(ValueError, match=r"4 have none: \['a', 'b', 'c'\], \.\.\."):
        places_in(LLAMA, [*COMPLETE, "a", "b", "c", "d"])


def test_a_layer_or_expert_beyond_the_config_is_named():
    with pytest.raises(
        ValueError, match=r"2 layers .* tensors 1 are beyond: .*layers\.2\.input"
    ):
        places_in(LLAMA, [*COMPLETE, "model.layers.2.input_layernorm.weight"])
    with pytest.raises(
        ValueError, match=r"2 experts in each; of its tensors 1 are .*experts\.2\.up"
    ):
        places_in(MIXTURE, [*MIXED, "model.layers.0.mlp.experts.2.up_proj.weight"])


@pytest.mark.parametrize("name", [*ENDS, *in_layers((*LAYER, *MLP), (1,))])
def test_a_missing_tensor_is_named(name):
    with pytest.raises(
        ValueError, match=rf"2 layers lacks 1 of its tensors; .*incomplete: \['{name}'\]"
    ):
        places_in(LLAMA, [other for other in COMPLETE if other != name])


def test_a_tied_head_need_not_be_stored():
    tied = family_of(
        {"model_type": "llama", "num_hidden_layers": 2, "tie_word_embeddings": True}
    )
    names = [name for name in COMPLETE if name != "lm_head.weight"]
    assert len(places_in(tied, names)) == len(names)


def test_a_bias_that_one_layer_has_is_expected_in_all():
    bias = "model.layers.{}.self_attn.q_proj.bias"
    assert len(places_in(LLAMA, [*COMPLETE, bias.format(0), bias.format(1)])) == 23
    with pytest.raises(ValueError, match=rf"lacks 1 of its tensors.*{bias.format(0)}"):
        places_in(LLAMA, [*COMPLETE, bias.format(1)])


def test_a_layer_of_a_mixture_is_either_dense_or_has_a_router_and_all_its_experts():
    assert len(places_in(MIXTURE, MIXED)) == len(MIXED)
    for missing in (
        "0.mlp.gate.weight",
        "0.mlp.experts.1.up_proj.weight",
        "1.mlp.up_proj.weight",
    ):
        name = f"model.layers.{missing}"
        with pytest.raises(ValueError, match=rf"lacks 1 of its tensors.*: \['{name}'\]"):
            places_in(MIXTURE, [other for other in MIXED if other != name])


def test_experts_have_places_of_their_own():
    places = places_in(MIXTURE, MIXED)
    name = "model.layers.0.mlp.experts.1.down_proj.weight"
    assert places[name] == (Place(Part.EXPERT_DOWN, 0, 1),)


def test_a_tensor_stored_with_and_without_a_prefix_is_one_too_many():
    twice = ["transformer.wte.weight", "wte.weight"]
    with pytest.raises(
        ValueError, match=r"claim one place, 1 are one too many: \['wte.weight'\]"
    ):
        places_in(GPT2, twice)


def test_constants_of_one_layer_may_share_a_place_and_be_absent():
    constants = in_layers(["self_attn.rotary_emb.inv_freq"], (1,))
    assert places_in(LLAMA, [*COMPLETE, *constants])[constants[0]] == (Place(Part.CONSTANT, 1),)
