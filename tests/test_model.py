"""Canonical parts of a model, and their reassembly into stored tensors."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seme.architecture.families import family_of
from seme.architecture.model import CanonicalModel, layout_of, places_in
from seme.architecture.parts import Part, Place
from seme.checkpoint.reader import open_checkpoint
from tests.reference_model import logits_of
from tests.tiny_models import DENSE, MIXTURES, save_tiny, tiny_model

CPU = torch.device("cpu")
TOKENS = torch.arange(24).reshape(2, 12) * 5 % 160
GEMMAS = ("gemma2", "gemma3_text")


def opened(folder: Path) -> CanonicalModel:
    return CanonicalModel(open_checkpoint(folder, root=folder), device=CPU)


def rebuilt(model: CanonicalModel, name: str) -> torch.Tensor:
    return model.assemble(name, {p: model.read(p) for p in model.places_of(name)})


def change(folder: Path, *, config: dict | None = None, **tensors: torch.Tensor | None) -> None:
    """Overwrite settings and tensors of a checkpoint; None takes a tensor away."""
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **(config or {})}))
    stored = {**load_file(folder / "model.safetensors"), **tensors}
    kept = {name: tensor for name, tensor in stored.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors")


OTHER_SETTINGS = [
    ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    ("llama", {"tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False}),
    ("gpt2", {"tie_word_embeddings": False, "n_inner": 40}),
    ("gemma2", {"tie_word_embeddings": False, "attention_bias": True}),
    ("gemma3_text", {"tie_word_embeddings": False, "attention_bias": True}),
    ("olmo2", {"num_key_value_heads": 2, "attention_bias": False}),
]


@pytest.mark.parametrize(
    ("model_type", "settings"), [*((name, {}) for name in DENSE), *OTHER_SETTINGS]
)
def test_canonical_parts_compute_the_logits(model_type, settings, tmp_path):
    model = tiny_model(model_type, **settings)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(TOKENS).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(logits_of(opened(tmp_path), TOKENS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model_type", [m for m in {**DENSE, **MIXTURES} if m not in GEMMAS])
def test_stored_tensors_are_reassembled_bit_identical(model_type, tmp_path):
    model = opened(save_tiny(tmp_path, model_type))
    for name in model.weights.names:
        assert torch.equal(rebuilt(model, name), model.weights.read(name)), name


@pytest.mark.parametrize("model_type", GEMMAS)
def test_gemma_gains_and_embedding_are_reassembled_within_rounding(model_type, tmp_path):
    model = opened(save_tiny(tmp_path, model_type))
    for name in model.weights.names:
        stored = model.weights.read(name)
        rounds = name.endswith(("norm.weight", "embed_tokens.weight"))
        error = 2**-22 if rounds else 0.0
        torch.testing.assert_close(rebuilt(model, name), stored, atol=error, rtol=0)


@pytest.mark.parametrize("model_type", GEMMAS)
def test_bfloat16_embedding_is_restored_after_scaling(model_type, tmp_path):
    model = opened(save_tiny(tmp_path, model_type, dtype=torch.bfloat16))
    name = "model.embed_tokens.weight"
    back = rebuilt(model, name).to(torch.bfloat16)
    assert torch.equal(back, model.weights.read(name))


@pytest.mark.parametrize("model_type", {**DENSE, **MIXTURES})
def test_every_place_is_in_one_tensor_and_read_as_float32(model_type, tmp_path):
    model = opened(save_tiny(tmp_path, model_type, dtype=torch.bfloat16))
    held = [place for name in model.weights.names for place in model.places_of(name)]
    assert len(held) == len(set(held))
    assert set(held) | {Place(Part.HEAD)} == model.places
    assert {model.read(place).dtype for place in model.places} == {torch.float32}


def test_fused_tensor_is_split_by_rows(tmp_path):
    model = opened(save_tiny(tmp_path, "phi3"))
    stored = model.weights.read("model.layers.1.self_attn.qkv_proj.weight")
    # 4 heads of 8 dimensions for queries, 2 for keys, 2 for values
    assert torch.equal(model.read(Place(Part.Q, 1)), stored[:32])
    assert torch.equal(model.read(Place(Part.K, 1)), stored[32:48])
    assert torch.equal(model.read(Place(Part.V, 1)), stored[48:])


def test_tied_head_is_the_unscaled_embedding(tmp_path):
    model = opened(save_tiny(tmp_path, "gemma2"))
    head, embedding = model.read(Place(Part.HEAD)), model.read(Place(Part.EMBEDDING))
    assert model.tied
    assert torch.equal(head, model.weights.read("model.embed_tokens.weight"))
    assert torch.equal(embedding, head * 32**0.5)


def test_stored_head_has_precedence_over_a_tied_config(tmp_path):
    change(save_tiny(tmp_path, "llama"), config={"tie_word_embeddings": True})
    model = opened(tmp_path)
    assert not model.tied
    assert torch.equal(model.read(Place(Part.HEAD)), model.weights.read("lm_head.weight"))


def test_mixture_experts_are_read_by_index(tmp_path):
    model = opened(save_tiny(tmp_path, "mixtral"))
    stored = model.weights.read("model.layers.1.block_sparse_moe.experts.2.w3.weight")
    assert torch.equal(model.read(Place(Part.EXPERT_UP, 1, 2)), stored)


def test_gpt2_is_read_with_and_without_name_prefix(tmp_path):
    before = logits_of(opened(save_tiny(tmp_path, "gpt2")), TOKENS)
    stored = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
    save_file(bare, tmp_path / "model.safetensors")
    assert torch.equal(logits_of(opened(tmp_path), TOKENS), before)


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("gpt2", "transformer.h.{}.attn.bias"),
        ("gpt2", "transformer.h.{}.attn.masked_bias"),
        ("gpt_neox", "gpt_neox.layers.{}.attention.bias"),
        ("gpt_neox", "gpt_neox.layers.{}.attention.rotary_emb.inv_freq"),
        ("llama", "model.layers.{}.self_attn.rotary_emb.inv_freq"),
    ],
)
def test_constants_of_old_checkpoints_cannot_be_assembled(model_type, name, tmp_path):
    save_tiny(tmp_path, model_type)
    change(tmp_path, **{name.format(layer): torch.ones(4) for layer in (0, 1)})
    model = opened(tmp_path)
    constant = Place(Part.CONSTANT, 1)
    assert model.places_of(name.format(1)) == (constant,)
    assert constant not in model.places
    with pytest.raises(ValueError, match=r"\.1\..* is a constant: copy it"):
        model.assemble(name.format(1), {constant: torch.ones(4)})


def test_absent_part_is_refused_with_the_existing_ones(tmp_path):
    model = opened(save_tiny(tmp_path, "gpt2"))
    with pytest.raises(ValueError, match=r"gate of layer 1 .*gpt2.*'down', 'down_"):
        model.read(Place(Part.GATE, 1))
    with pytest.raises(ValueError, match=r"constant of layer 1 cannot be read"):
        model.read(Place(Part.CONSTANT, 1))


def test_assemble_requires_every_part_in_canonical_shape(tmp_path):
    model = opened(save_tiny(tmp_path, "phi3"))
    name = "model.layers.0.mlp.gate_up_proj.weight"
    gate, up = model.places_of(name)
    with pytest.raises(ValueError, match="gate of layer 0, up of layer 0; up of layer 0"):
        model.assemble(name, {gate: torch.ones(48, 32)})
    with pytest.raises(ValueError, match=r"up .* \(48, 32\), got \(32, 48\)"):
        model.assemble(name, {gate: torch.ones(48, 32), up: torch.ones(32, 48)})


@pytest.mark.parametrize(
    ("model_type", "name", "shape", "expected"),
    [
        ("llama", "model.layers.1.self_attn.k_proj.weight", (32, 32), r"\(16, 32\).*k of"),
        ("phi3", "model.layers.1.mlp.gate_up_proj.weight", (95, 32), r"\(96, 32\).*gate.*up"),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", (96, 32), r"\(32, 96\).*q of.*k of.*v"),
        ("olmo2", "model.layers.0.self_attn.q_norm.weight", (8,), r"\(32,\).*q_norm of"),
    ],
)
def test_tensor_shape_must_match_the_config(model_type, name, shape, expected, tmp_path):
    change(save_tiny(tmp_path, model_type), **{name: torch.ones(shape)})
    with pytest.raises(ValueError, match=rf"{name} .* {expected}.*got \({shape[0]}"):
        opened(tmp_path)


def test_unknown_or_missing_tensors_are_refused(tmp_path):
    change(save_tiny(tmp_path, "qwen2"), **{"model.layers.0.mlp.bonus.weight": torch.ones(3)})
    with pytest.raises(ValueError, match=r"qwen2 model needs a role, 1 have none: .*bonus"):
        opened(tmp_path)
    absent = {"model.layers.0.mlp.bonus.weight": None, "model.norm.weight": None}
    change(tmp_path, **absent)
    with pytest.raises(ValueError, match=r"lacks 1 of its tensors.*: \['model.norm.weight'\]"):
        opened(tmp_path)


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


def test_complete_checkpoint_has_a_place_per_tensor():
    places = places_in(LLAMA, COMPLETE)
    assert list(places) == COMPLETE
    assert places["lm_head.weight"] == (Place(Part.HEAD),)
    assert places["model.layers.1.self_attn.o_proj.weight"] == (Place(Part.O, 1),)


def test_fused_tensor_has_its_parts_in_order():
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
def test_tensor_without_a_role_is_refused(name):
    with pytest.raises(ValueError, match=rf"llama.* 1 have none: .*{name}"):
        places_in(LLAMA, [*COMPLETE, name])


def test_many_tensors_without_a_role_are_counted():
    with pytest.raises(ValueError, match=r"4 have none: \['a', 'b', 'c'\], \.\.\."):
        places_in(LLAMA, [*COMPLETE, "a", "b", "c", "d"])


def test_layer_or_expert_beyond_the_config_is_refused():
    with pytest.raises(ValueError, match=r"2 layers .* 1 are beyond: .*layers\.2\.input"):
        places_in(LLAMA, [*COMPLETE, "model.layers.2.input_layernorm.weight"])
    with pytest.raises(ValueError, match=r"2 experts .* 1 are .*experts\.2\.up"):
        places_in(MIXTURE, [*MIXED, "model.layers.0.mlp.experts.2.up_proj.weight"])


@pytest.mark.parametrize("name", [*ENDS, *in_layers((*LAYER, *MLP), (1,))])
def test_missing_tensor_is_refused(name):
    with pytest.raises(ValueError, match=rf"2 layers lacks 1 .*\['{name}'\]"):
        places_in(LLAMA, [other for other in COMPLETE if other != name])


def test_tied_head_may_be_absent():
    tied = family_of(
        {"model_type": "llama", "num_hidden_layers": 2, "tie_word_embeddings": True}
    )
    names = [name for name in COMPLETE if name != "lm_head.weight"]
    assert len(places_in(tied, names)) == len(names)


def test_bias_in_one_layer_is_required_in_all():
    bias = "model.layers.{}.self_attn.q_proj.bias"
    assert len(places_in(LLAMA, [*COMPLETE, bias.format(0), bias.format(1)])) == 23
    with pytest.raises(ValueError, match=rf"lacks 1 of its tensors.*{bias.format(0)}"):
        places_in(LLAMA, [*COMPLETE, bias.format(1)])


def test_mixture_layer_is_dense_or_has_router_and_all_experts():
    assert len(places_in(MIXTURE, MIXED)) == len(MIXED)
    for missing in (
        "0.mlp.gate.weight",
        "0.mlp.experts.1.up_proj.weight",
        "1.mlp.up_proj.weight",
    ):
        name = f"model.layers.{missing}"
        with pytest.raises(ValueError, match=rf"lacks 1 of its tensors.*: \['{name}'\]"):
            places_in(MIXTURE, [other for other in MIXED if other != name])


def test_mixture_experts_have_their_own_places():
    places = places_in(MIXTURE, MIXED)
    name = "model.layers.0.mlp.experts.1.down_proj.weight"
    assert places[name] == (Place(Part.EXPERT_DOWN, 0, 1),)


def test_tensor_stored_under_two_names_is_refused():
    twice = ["transformer.wte.weight", "wte.weight"]
    with pytest.raises(ValueError, match=r"1 are duplicates: \['wte.weight'\]"):
        places_in(GPT2, twice)


def test_constants_may_be_absent_in_some_layers():
    constants = in_layers(["self_attn.rotary_emb.inv_freq"], (1,))
    assert places_in(LLAMA, [*COMPLETE, *constants])[constants[0]] == (Place(Part.CONSTANT, 1),)
