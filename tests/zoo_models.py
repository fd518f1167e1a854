"""Committed models of the embedded benchmark, and a miniature recipe."""

import numpy as np
from safetensors import safe_open

from scripts.zoo.material import Material, read_recipe
from scripts.zoo.texts import Document, split_of
from scripts.zoo.training import batches, fresh_model, train

RECIPE = read_recipe()


MODELS = RECIPE["models"]


SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def trained(steps, seed=0, learning_rate=0.02):
    """Weights and losses after training on a stream in which tokens count up by 1."""
    counting = {"a": np.arange(320, dtype=np.uint16) % 32}
    stream = batches(counting, {"a": 1.0}, rows=4, length=16, seed=seed)
    losses = {}
    model = fresh_model(SHAPE, 32, seed)
    train(model, stream, steps=steps, learning_rate=learning_rate, on_step=losses.__setitem__)
    return model.state_dict(), losses


MINIATURE = {
    "seed": 1,
    "words": 4,
    "texts": {"english": [{"deb": "pages", "version": "1", "licence": "Free-1"}]},
    "mixes": {"general": {"english": 0.75, "mathematics": 0.25}},
    "tokenizers": {"zoo": {"vocabulary": 270, "mix": "general", "characters": 4000}},
    "shapes": {"tiny": SHAPE},
    "training": {"rows": 2, "length": 8},
    "adapters": {
        "lora": {"rank": 2, "alpha": 4, "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        "training": {"rows": 2, "length": 8},
        "experts": {
            "tuned": {
                "about": "Adapter for numbers.", "start": "base", "mix": "general",
                "domains": ["numbers"], "steps": 3, "learning_rate": 1e-3, "seeds": [3],
            },
        },
    },
    "models": {
        "child": {
            "about": "Expert for numbers.", "start": "base", "mix": "general",
            "domains": ["numbers"], "steps": 3, "learning_rate": 1e-3, "seed": 2,
        },
        "base": {
            "about": "The ancestor.", "tokenizer": "zoo", "shape": "tiny", "mix": "general",
            "steps": 3, "learning_rate": 1e-3, "seed": 1,
        },
    },
}  # fmt: skip


def english_material():
    """Sixty pages of nine lines over all splits."""
    texts = [
        "\n".join(f"the line {i} of page {n} ".ljust(24 + i, "x") for i in range(9))
        for n in range(60)
    ]
    pages = [Document(domain="english", key=str(n), text=text) for n, text in enumerate(texts)]
    assert {split_of(str(n)) for n in range(60)} == {"train", "validation", "test"}
    return Material(documents={"english": pages}, words=list("abcdefgh"), seed=1)


def weights_of(folder):
    """Every tensor of a model by its name."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
