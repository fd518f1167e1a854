"""Runs of the recipes in tests/mergekit_recipes.py, by this project and by mergekit.

python -m tests.mergekit_runs

renews tests/mergekit_numbers.json, sums over the tensors of mergekit's results (mergekit 0.1.5 is
needed for that alone): tests compare with them where mergekit is not installed.
"""

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

from scripts.from_mergekit import convert
from seme.binding import bind_method
from seme.job import job_from_config
from tests.mergekit_recipes import EQUAL
from tests.settings import TOP_LEVEL

NUMBERS = Path(__file__).with_name("mergekit_numbers.json")
MODELS = ("BASE", "A", "B", "C")
ADAPTER = "LORA"
N_SUMS = 4
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16,
    "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 24, "vocab_size": 48, "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip
LAYER = {
    "input_layernorm.weight": (16,), "post_attention_layernorm.weight": (16,),
    "self_attn.q_proj.weight": (16, 16), "self_attn.k_proj.weight": (8, 16),
    "self_attn.v_proj.weight": (8, 16), "self_attn.o_proj.weight": (16, 16),
    "mlp.gate_proj.weight": (24, 16), "mlp.up_proj.weight": (24, 16),
    "mlp.down_proj.weight": (16, 24),
}  # fmt: skip
SHAPES = {
    "model.embed_tokens.weight": (48, 16), "model.norm.weight": (16,), "lm_head.weight": (48, 16),
    **{f"model.layers.{k}.{part}": shape for k in range(4) for part, shape in LAYER.items()},
}  # fmt: skip


def write_models(root):
    """Write the base, and three models near it, in float32."""
    base = _tensors(0, 0.1)
    for seed, name in enumerate(MODELS):
        folder = root / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG))
        change = _tensors(seed, 0.02) if seed else dict.fromkeys(base, 0)
        tensors = {tensor: values + change[tensor] for tensor, values in base.items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    _write_adapter(root / ADAPTER, root / "BASE")
    return root


def _write_adapter(folder, base):
    """Write an adapter of the base: rank 3 of two weights of each layer, scaling 4 / 3."""
    folder.mkdir()
    rng = np.random.Generator(np.random.PCG64(9))
    tensors = {}
    for layer in range(4):
        for part in ("self_attn.q_proj", "mlp.down_proj"):
            n_out, n_in = LAYER[f"{part}.weight"]
            key = f"base_model.model.model.layers.{layer}.{part}"
            for name, shape in (("lora_A", (3, n_in)), ("lora_B", (n_out, 3))):
                values = torch.from_numpy(0.1 * rng.standard_normal(shape)).float()
                tensors[f"{key}.{name}.weight"] = values
    config = {
        "peft_type": "LORA", "base_model_name_or_path": str(base), "r": 3, "lora_alpha": 4,
        "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def _tensors(seed, scale):
    rng = np.random.Generator(np.random.PCG64(seed))
    return {
        name: torch.from_numpy(scale * rng.standard_normal(shape)).float()
        for name, shape in SHAPES.items()
    }


def config_of(text, root):
    """A recipe with the folders of the models in place of their names."""

    def placed(value):
        if isinstance(value, dict):
            return {key: placed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [placed(item) for item in value]
        return str(root / value) if value in (*MODELS, ADAPTER) else value

    return placed(yaml.safe_load(text))


def write_recipe(text, root, name="recipe"):
    path = root / f"{name}.yml"
    path.write_text(yaml.safe_dump(config_of(text, root)))
    return path


def job_of(entries, root):
    """The job of a converted recipe."""
    method = bind_method({"_target_": f"baselines.{entries.method}.merge", **entries.values})
    models = {"pivot": dict(entries.pivot), "sources": [dict(s) for s in entries.sources]}
    config = {**TOP_LEVEL, "dtype": entries.dtype, "overrides": [*entries.overrides]}
    return job_from_config({**config, "models": models}, entries.method, method, root=root)


def merged_here(recipe, root, destination):
    """The tensors of this project's run of a recipe."""
    path = write_recipe(recipe.text, root)
    converted = convert(path, as_mergekit=recipe.as_mergekit)
    job_of(converted.entries, root).run(destination, progress=False)
    return load_file(destination / "model.safetensors")


def merged_by_mergekit(recipe, root, destination):
    """The tensors of mergekit's run of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mergekit.config import MergeConfiguration  # noqa: PLC0415 (may be absent)
        from mergekit.merge import run_merge  # noqa: PLC0415
        from mergekit.options import MergeOptions  # noqa: PLC0415

        options = MergeOptions(
            copy_tokenizer=False, write_model_card=False, quiet=True, device="cpu",
            lora_merge_cache=f"{destination}-adapters",
        )  # fmt: skip
        config = MergeConfiguration.model_validate(config_of(recipe.text, root))
        run_merge(config, str(destination), options)
    return load_file(destination / "model.safetensors")


def sums_of(tensors):
    """A few weighted sums over all elements, the weights random and always the same."""
    sums = np.zeros(N_SUMS)
    for index, name in enumerate(sorted(tensors)):
        rng = np.random.Generator(np.random.PCG64(1000 + index))
        values = tensors[name].double().flatten().numpy()
        sums += rng.standard_normal((N_SUMS, values.size)) @ values
    return [float(value) for value in sums]


def main():
    with tempfile.TemporaryDirectory() as folder:
        root = write_models(Path(folder))
        numbers = {
            name: sums_of(merged_by_mergekit(recipe, root, root / "mergekit" / name))
            for name, recipe in EQUAL.items()
        }
    NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n")
    print(f"{len(numbers)} recipes in {NUMBERS.name}")  # noqa: T201


if __name__ == "__main__":
    main()
