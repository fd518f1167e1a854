"""Committed models: complete, loadable, as in the recipe."""

import json
import re

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.zoo.adapters import adapter_card, adapter_plans
from scripts.zoo.material import ZOO, Material, data_card, model_card
from seme.checkpoint.lora import open_adapter
from tests.zoo_models import MODELS, RECIPE, weights_of

REBUILT = {name for name in adapter_plans(RECIPE) if not name.endswith("_0")}
"""Adapters of the other training seeds, which the repository does not hold."""
COMMITTED = sorted(set(adapter_plans(RECIPE)) - REBUILT)


def file_of(name, file="tokenizer.json"):
    """The bytes of a file of a model."""
    return (ZOO / "models" / name / file).read_bytes()


def test_model_folders_match_the_recipe():
    folders = {p.name for p in (ZOO / "models").iterdir() if not p.name.startswith(".")}
    assert folders == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_models_load_without_missing_keys(name):
    model, info = LlamaForCausalLM.from_pretrained(
        ZOO / "models" / name, dtype="auto", output_loading_info=True
    )
    assert {kind: list(keys) for kind, keys in info.items() if keys} == {}
    tokens = torch.arange(20).unsqueeze(0)
    assert torch.isfinite(model(input_ids=tokens).logits).all()


@pytest.mark.parametrize("name", MODELS)
def test_models_have_the_recipe_shape_in_bfloat16(name):
    ancestor = MODELS[MODELS[name].get("start", name)]
    shape = RECIPE["shapes"][ancestor["shape"]]
    vocabulary = RECIPE["tokenizers"][ancestor["tokenizer"]]["vocabulary"]
    config = json.loads((ZOO / "models" / name / "config.json").read_text("utf-8"))
    assert {key: config[key] for key in shape} == shape
    assert config["vocab_size"] == vocabulary >= 4 * shape["hidden_size"]
    tensors = weights_of(ZOO / "models" / name)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert tensors["lm_head.weight"].shape == (vocabulary, shape["hidden_size"])
    assert len(tensors) == 9 * shape["num_hidden_layers"] + 3


@pytest.mark.parametrize("name", MODELS)
def test_tokenizer_size_equals_embedding_rows(name):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(ZOO / "models" / name)
    assert len(tokenizer) == weights_of(ZOO / "models" / name)["lm_head.weight"].shape[0]
    assert tokenizer.tokenize("12 + 34")[:2] == ["1", "2"]
    assert tokenizer.eos_token_id == 0


@pytest.mark.parametrize("name", [name for name, plan in MODELS.items() if "start" in plan])
def test_experts_are_close_to_the_base_with_its_tokenizer(name):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert file_of(name, file) == file_of("base", file)
    assert 0.9 < cosine("base", name) < 1


def cosine(first, second):
    """Cosine between the weights of two models of one shape, norms left out."""
    one, two = (weights_of(ZOO / "models" / name) for name in (first, second))
    flat = [
        torch.cat([w[n].double().flatten() for n in one if w[n].dim() == 2]) for w in (one, two)
    ]
    return torch.cosine_similarity(*flat, dim=0).item()


def test_independent_model_has_the_base_tokenizer_but_unrelated_weights():
    assert file_of("independent") == file_of("base")
    assert abs(cosine("base", "independent")) < 0.1


def test_small_model_is_narrower_and_shallower():
    small, base = (json.loads(file_of(n, "config.json")) for n in ("small", "base"))
    for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"):
        assert small[key] < base[key]
    assert file_of("small") == file_of("base")


def test_foreign_tokenizer_overlaps_partly_with_the_base():
    base, foreign = (
        set(json.loads(file_of(name))["model"]["vocab"]) for name in ("base", "foreign")
    )
    assert 0.4 < len(base & foreign) / len(base) < 0.95


@pytest.mark.parametrize("name", MODELS)
def test_model_cards_match_the_recipe(name):
    card = (ZOO / "models" / name / "README.md").read_text("utf-8")
    assert card == model_card(name, RECIPE)
    for packages in RECIPE["texts"].values():
        assert all(package["licence"] in card for package in packages)


def test_data_card_matches_the_recipe():
    no_texts = Material(documents=dict.fromkeys(RECIPE["texts"], ()), words=[], seed=0)
    committed = (ZOO / "DATA_CARD.md").read_text("utf-8")
    cards = (committed, data_card(RECIPE, no_texts))
    first, second = ([li for li in card.split("\n") if " M |" not in li] for card in cards)
    assert first == second
    for file in re.findall(r"`(scripts/[^`]*)`", committed):
        assert (ZOO.parents[1] / file).is_file()


def test_embedded_benchmark_is_at_most_32_megabytes():
    files = [p for p in ZOO.rglob("*") if p.is_file()]
    visible = [
        p
        for p in files
        if not ({".cache", "__pycache__"} | REBUILT) & set(p.relative_to(ZOO).parts)
    ]
    assert sum(p.stat().st_size for p in visible) <= 32_000_000


@pytest.mark.parametrize("name", COMMITTED)
def test_adapters_are_as_in_the_recipe_on_their_own_base(name):
    folder, lora = ZOO / "adapters" / name, RECIPE["adapters"]["lora"]
    plan = adapter_plans(RECIPE)[name]
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert (config["r"], config["lora_alpha"]) == (lora["rank"], lora["alpha"])
    assert config["base_model_name_or_path"] == f"eval/zoo/models/{plan['start']}"
    assert (folder / "README.md").read_text("utf-8") == adapter_card(name, RECIPE)
    adapter = open_adapter(folder, root=ZOO.parents[1])
    base = weights_of(ZOO / "models" / plan["start"])
    changed = {n for n in base if not torch.equal(adapter.read(n).float(), base[n].float())}
    assert changed == {n for n, tensor in base.items() if tensor.dim() == 2}
