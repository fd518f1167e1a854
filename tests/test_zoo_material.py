"""Training texts and mixes of a recipe, and the cards written from it."""

import pytest

from scripts.zoo.material import Material, data_card, experts_of, mix_of, model_card
from scripts.zoo.texts import Document, split_of
from tests.zoo_models import MINIATURE, english_material


def test_training_texts_use_only_the_training_split():
    pages = [
        Document(domain="english", key=key, text=key) for key in ("read.2", "man.1", "sed.1")
    ]
    material = Material(documents={"english": pages}, words=["one", "two", "three"], seed=0)
    assert material.training_texts("english") == ["read.2"]
    for domain in ("mathematics", "numbers", "format"):
        lines = material.training_texts(domain)[0].splitlines()
        assert len(lines) == 100
        assert {split_of(line[: line.index("=") + 1]) for line in lines} == {"train"}


def test_expert_mix_has_half_from_its_domains():
    recipe = {"mixes": {"general": {"english": 3.0, "code": 1.0, "format": 1.0}}}
    assert mix_of(recipe, {"mix": "general"}) == {"english": 0.6, "code": 0.2, "format": 0.2}
    own = mix_of(recipe, {"mix": "general", "domains": ["code", "format"]})
    assert own == pytest.approx({"english": 0.3, "code": 0.35, "format": 0.35})


def test_a_plan_may_say_the_share_of_its_domains():
    recipe = {"mixes": {"general": {"english": 3.0, "code": 1.0}}}
    plan = {"mix": "general", "domains": ["code"], "share": 0.9}
    assert mix_of(recipe, plan) == pytest.approx({"english": 0.075, "code": 0.925})
    assert mix_of(recipe, {"mix": "general", "share": 0.9}) == {"english": 0.75, "code": 0.25}


def test_domain_absent_from_the_base_mix_gets_its_share():
    recipe = {"mixes": {"general": {"english": 3.0, "code": 1.0}}}
    one = mix_of(recipe, {"mix": "general", "domains": ["numbers"]})
    assert one == {"english": 0.375, "code": 0.125, "numbers": 0.5}
    two = mix_of(recipe, {"mix": "general", "domains": ["numbers", "code"]})
    assert two == {"english": 0.375, "code": 0.375, "numbers": 0.25}


def test_experts_are_models_of_one_domain():
    plans = {"a": {"domains": ["numbers"]}, "b": {}, "c": {"domains": ["numbers", "code"]}}
    assert experts_of({"models": plans}) == {"a": "numbers"}


@pytest.fixture
def material(monkeypatch):
    """Pages of every split, nine lines each."""
    monkeypatch.setattr("scripts.zoo.material._EXERCISE_DOCUMENTS", 2)
    return english_material()


def test_data_card_counts_documents_per_split(material):
    card = data_card(MINIATURE, material)
    sizes = dict.fromkeys(("train", "validation", "test"), 0)
    for page in material.documents["english"]:
        sizes[page.split] += 1
    expected = " | ".join(f"{n} / 0.0 M" for n in sizes.values())
    assert f"| english | {expected} |" in card


def test_model_card_has_parent_and_mix_shares():
    card = model_card("child", MINIATURE)
    assert "fine-tuned from `base`: 3 steps of 2\nwindows of 8 tokens" in card
    assert "| english | 37.5% |\n| mathematics | 12.5% |\n| numbers | 50.0% |\n" in card
    assert "Their licences: Free-1." in card
    assert "trained from scratch" in model_card("base", MINIATURE)
