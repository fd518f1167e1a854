"""Training of LoRA adapters: windows, files, and going on after an interruption."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from scripts.smol import adapters
from scripts.smol.adapters import END_OF_DOCUMENT, Windows, train_adapter
from scripts.smol.material import read_recipe
from scripts.zoo.material import ZOO

BASE = ZOO / "models" / "base"
TEXTS = {"code": ["def f(x):\n    return x\n" * 40], "french": ["le chat et le chien\n" * 40]}
RECIPE = {
    "lora": {"rank": 2, "alpha": 4, "target_modules": ["q_proj", "down_proj"]},
    "training": {"rows": 2, "length": 16, "learning_rate": 1e-2},
    "adapters": {"toy": {"steps": 4, "seed": 1, "domains": ["code", "french"]}},
}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


def windows(tokenizer, seed=1):
    return Windows(tokenizer, TEXTS, count=6, length=16, seed=seed)


def test_windows_begin_with_the_first_token_and_take_turns(tokenizer):
    drawn = windows(tokenizer)
    texts = [tokenizer.decode(drawn[i]["input_ids"][1:]) for i in range(len(drawn))]
    assert all(drawn[i]["input_ids"].shape == (16,) for i in range(6))
    assert {int(drawn[i]["input_ids"][0]) for i in range(6)} == {tokenizer.bos_token_id}
    assert all(("return" in t or "def" in t) == (i % 2 == 0) for i, t in enumerate(texts))


def test_the_seed_determines_the_windows(tokenizer):
    first, again, other = windows(tokenizer), windows(tokenizer), windows(tokenizer, seed=2)
    assert all(torch.equal(first[i]["input_ids"], again[i]["input_ids"]) for i in range(6))
    assert not all(torch.equal(first[i]["input_ids"], other[i]["input_ids"]) for i in range(6))


def test_the_tokenizer_of_the_embedded_models_ends_documents_alike(tokenizer):
    assert tokenizer.convert_tokens_to_ids(END_OF_DOCUMENT) == tokenizer.eos_token_id


def _train(folder):
    train_adapter(
        "toy",
        TEXTS,
        RECIPE,
        base=BASE,
        base_name="some/base",
        folder=folder / "toy",
        work=folder / ".toy.checkpoints",
    )
    return load_file(folder / "toy" / "adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_interrupted_training_ends_in_the_same_adapter(tmp_path, monkeypatch):
    monkeypatch.setattr(adapters, "_CHECKPOINT_EVERY", 2)
    whole = _train(tmp_path / "whole")
    config = json.loads((tmp_path / "whole" / "toy" / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (2, "some/base")
    assert {t.dtype for t in whole.values()} == {torch.bfloat16}
    assert any(t.any() for name, t in whole.items() if "lora_B" in name)

    drawn, give = [], Windows.__getitem__

    def until_the_fourth_step(self, index):
        drawn.append(index)
        if len(drawn) > 6:
            raise KeyboardInterrupt
        return give(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(Windows, "__getitem__", until_the_fourth_step)
        with pytest.raises(KeyboardInterrupt):
            _train(tmp_path / "resumed")
    assert not (tmp_path / "resumed" / "toy").exists()
    resumed = _train(tmp_path / "resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not (tmp_path / "resumed" / ".toy.checkpoints").exists()


def test_adapters_of_the_recipe_fit_six_megabytes():
    lora, width, inner, layers = read_recipe()["lora"], 576, 1536, 30
    sizes = {
        "q_proj": 2 * width,
        "k_proj": width + width // 3,
        "v_proj": width + width // 3,
        "o_proj": 2 * width,
        "down_proj": width + inner,
    }
    parameters = layers * lora["rank"] * sum(sizes[name] for name in lora["target_modules"])
    assert parameters * 2 < 6e6
