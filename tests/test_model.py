"""A model seen through canonical parts: what they mean, and the way back to what is stored."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seme.architecture.model import Anatomy
from seme.architecture.parts import Part, Place
from seme.checkpoint.reader import open_checkpoint
from tests.reference_model import logits_of
from tests.tiny_models import DENSE, MIXTURES, save_tiny, tiny_model

CPU = torch.device("cpu")
TOKENS = torch.arange(24).reshape(2, 12) * 5 % 160
GEMMAS = ("gemma2", "gemma3_text")


def opened(folder: Path) -> Anatomy:
    return Anatomy(open_checkpoint(folder, root=folder), device=CPU)


def rebuilt(anatomy: Anatomy, name: str) -> torch.Tensor:
    return anatomy.assemble(name, {p: anatomy.read(p) for p in anatomy.places_of(name)})


def change(folder: Path, *, config: dict | None = None, **tensors: torch.Tensor | None) -> None:
    """Overwrite settings and tensors of a checkpoint; None takes a tensor away."""
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **(config or {})}))
    stored = {**load_file(folder / "model.safetensors"), **tensors}
    kept = {name: tensor for name, tensor in stored.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors")


@pytest.mark.parametrize("model_type", DENSE)
def test_canonical_parts_compute_the_logits_of_the_model_they_were_read_from(
    model_type, tmp_path
):
    model = tiny_model(model_type)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(TOKENS).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(logits_of(opened(tmp_path), TOKENS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
        ("llama", {"tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False}),
        ("gpt2", {"tie_word_embeddings": False, "n_inner": 40}),
        ("gemma2", {"tie_word_embeddings": False, "attention_bias": True}),
        ("gemma3_text", {"tie_word_embeddings": False, "attention_bias": True}),
        ("olmo2", {"num_key_value_heads": 2, "attention_bias": False}),
    ],
)
def test_they_do_so_under_the_other_settings_of_an_architecture_too(
    model_type, settings, tmp_path
):
    model = tiny_model(model_type, **settings)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(TOKENS).logits
    torch.testing.assert_close(logits_of(opened(tmp_path), TOKENS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model_type", [m for m in {**DENSE, **MIXTURES} if m not in GEMMAS])
def test_every_stored_tensor_is_assembled_again_bit_for_bit(model_type, tmp_path):
    anatomy = opened(save_tiny(tmp_path, model_type))
    for name in anatomy.weights.names:
        assert torch.equal(rebuilt(anatomy, name), anatomy.weights.read(name)), name


@pytest.mark.parametrize("model_type", GEMMAS)
def test_only_gemmas_gains_and_embedding_are_rounded_once_each_way(model_type, tmp_path):
    anatomy = opened(save_tiny(tmp_path, model_type))
    for name in anatomy.weights.names:
        stored = anatomy.weights.read(name)
        rounds = name.endswith(("norm.weight", "embed_tokens.weight"))
        error = 2**-22 if rounds else 0.0
        torch.testing.assert_close(rebuilt(anatomy, name), stored, atol=error, rtol=0)


@pytest.mark.parametrize("model_type", GEMMAS)
def test_a_bfloat16_embedding_survives_its_scaling(model_type, tmp_path):
    anatomy = opened(save_tiny(tmp_path, model_type, dtype=torch.bfloat16))
    name = "model.embed_tokens.weight"
    back = rebuilt(anatomy, name).to(torch.bfloat16)
    assert torch.equal(back, anatomy.weights.read(name))


@pytest.mark.parametrize("model_type", {**DENSE, **MIXTURES})
def test_every_place_is_read_in_float32_and_held_by_exactly_one_tensor(model_type, tmp_path):
    anatomy = opened(save_tiny(tmp_path, model_type, dtype=torch.bfloat16))
    held = [place for name in anatomy.weights.names for place in anatomy.places_of(name)]
    assert len(held) == len(set(held))
    assert set(held) | {Place(Part.HEAD)} == anatomy.places
    assert {anatomy.read(place).dtype for place in anatomy.places} == {torch.float32}


def test_the_parts_of_a_fused_tensor_are_its_rows_in_order(tmp_path):
    anatomy = opened(save_tiny(tmp_path, "phi3"))
    stored = anatomy.weights.read("model.layers.1.self_attn.qkv_proj.weight")
    # 4 heads of 8 dimensions for queries, 2 for keys, 2 for values
    assert torch.equal(anatomy.read(Place(Part.Q, 1)), stored[:32])
    assert torch.equal(anatomy.read(Place(Part.K, 1)), stored[32:48])
    assert torch.equal(anatomy.read(Place(Part.V, 1)), stored[48:])


def test_a_tied_head_is_the_embedding_without_its_scale(tmp_path):
    anatomy = opened(save_tiny(tmp_path, "gemma2"))
    head, embedding = anatomy.read(Place(Part.HEAD)), anatomy.read(Place(Part.EMBEDDING))
    assert anatomy.tied
    assert torch.equal(head, anatomy.weights.read("model.embed_tokens.weight"))
    assert torch.equal(embedding, head * 32**0.5)


def test_a_head_of_its_own_is_read_though_the_config_calls_it_tied(tmp_path):
    change(save_tiny(tmp_path, "llama"), config={"tie_word_embeddings": True})
    anatomy = opened(tmp_path)
    assert not anatomy.tied
    assert torch.equal(anatomy.read(Place(Part.HEAD)), anatomy.weights.read("lm_head.weight"))


def test_an_expert_is_read_by_its_number(tmp_path):
    anatomy = opened(save_tiny(tmp_path, "mixtral"))
    stored = anatomy.weights.read("model.layers.1.block_sparse_moe.experts.2.w3.weight")
    assert torch.equal(anatomy.read(Place(Part.EXPERT_UP, 1, 2)), stored)


def test_gpt2_is_read_alike_without_the_prefix_of_its_names(tmp_path):
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
def test_the_constants_of_old_checkpoints_are_to_be_copied(model_type, name, tmp_path):
    save_tiny(tmp_path, model_type)
    change(tmp_path, **{name.format(layer): torch.ones(4) for layer in (0, 1)})
    anatomy = opened(tmp_path)
    constant = Place(Part.CONSTANT, 1)
    assert anatomy.places_of(name.format(1)) == (constant,)
    assert constant not in anatomy.places
    with pytest.raises(ValueError, match=r"\.1\..* is a constant: copy it"):
        anatomy.assemble(name.format(1), {constant: torch.ones(4)})


def test_a_part_the_model_lacks_is_named_with_those_it_has(tmp_path):
    anatomy = opened(save_tiny(tmp_path, "gpt2"))
    with pytest.raises(
        ValueError, match=r"gate of layer 1 cannot be read.*gpt2.*'down', 'down_"
    ):
        anatomy.read(Place(Part.GATE, 1))
    with pytest.raises(ValueError, match=r"constant of layer 1 cannot be read"):
        anatomy.read(Place(Part.CONSTANT, 1))


def test_assembling_needs_every_part_in_its_canonical_shape(tmp_path):
    anatomy = opened(save_tiny(tmp_path, "phi3"))
    name = "model.layers.0.mlp.gate_up_proj.weight"
    gate, up = anatomy.places_of(name)
    with pytest.raises(
        ValueError, match=r"gate of layer 0, up of layer 0; up of layer 0 is mis"
    ):
        anatomy.assemble(name, {gate: torch.ones(48, 32)})
    with pytest.raises(
        ValueError, match=r"up .* must have the shape \(48, 32\), got \(32, 48\)"
    ):
        anatomy.assemble(name, {gate: torch.ones(48, 32), up: torch.ones(32, 48)})


@pytest.mark.parametrize(
    ("model_type", "name", "shape", "expected"),
    [
        (
            "llama",
            "model.layers.1.self_attn.k_proj.weight",
            (32, 32),
            r"\(16, 32\).*k of layer 1",
        ),
        (
            "phi3",
            "model.layers.1.mlp.gate_up_proj.weight",
            (95, 32),
            r"\(96, 32\).*gate of.*up",
        ),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", (96, 32), r"\(32, 96\).*q of.*k of.*v"),
        (
            "olmo2",
            "model.layers.0.self_attn.q_norm.weight",
            (8,),
            r"\(32,\).*q_norm of layer 0",
        ),
    ],
)
def test_a_tensor_of_another_shape_than_the_config_gives_it_is_refused(
    model_type, name, shape, expected, tmp_path
):
    change(save_tiny(tmp_path, model_type), **{name: torch.ones(shape)})
    with pytest.raises(
        ValueError, match=rf"{name} must have the shape {expected}.*got \({shape[0]}"
    ):
        opened(tmp_path)


def test_a_tensor_that_is_not_in_the_table_or_not_on_disk_stops_the_opening(tmp_path):
    change(save_tiny(tmp_path, "qwen2"), **{"model.layers.0.mlp.bonus.weight": torch.ones(3)})
    with pytest.raises(ValueError, match=r"qwen2 model needs a role, 1 have none: .*bonus"):
        opened(tmp_path)
    absent = {"model.layers.0.mlp.bonus.weight": None, "model.norm.weight": None}
    change(tmp_path, **absent)
    with pytest.raises(ValueError, match=r"lacks 1 of its tensors.*: \['model.norm.weight'\]"):
        opened(tmp_path)
