"""LoRA adapters of the embedded models of other ancestry: their plans, their training, their cards."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.zoo.material import Material, licences_of, mix_of, mix_table
from scripts.zoo.training import batches, tokenize, train


def adapter_plans(recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Write out the adapters of a recipe, one for each training seed.

    Args:
        recipe: ``adapters.experts`` maps a name to a plan as of a model, with ``seeds``.

    Returns:
        Plans by ``NAME_0``, ``NAME_1``, ...: each with one ``seed``.
    """
    experts = recipe.get("adapters", {}).get("experts", {})
    return {
        f"{name}_{i}": {**{k: v for k, v in plan.items() if k != "seeds"}, "seed": seed}
        for name, plan in experts.items()
        for i, seed in enumerate(plan["seeds"])
    }


def build_adapter(
    name: str,
    recipe: Mapping[str, Any],
    material: Material,
    folder: Path,
    on_step: Callable[[int, float], None],
) -> None:
    """Train one adapter of the recipe and write its folder atomically.

    Args:
        name: Key of :func:`adapter_plans`.
        recipe: The recipe.
        material: Texts and exercises.
        folder: Folder of the benchmark; ``folder / "adapters" / name`` is written, the model
            that training starts from is read from ``folder / "models"``.
        on_step: Called with (step, loss in nats) after every step.
    """
    plan, lora = adapter_plans(recipe)[name], recipe["adapters"]["lora"]
    start = folder / "models" / plan["start"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
    model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    torch.manual_seed(plan["seed"])
    adapted: Any = get_peft_model(
        model,
        LoraConfig(
            r=lora["rank"],
            lora_alpha=lora["alpha"],
            target_modules=sorted(lora["target_modules"]),
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        ),
    )
    mix = mix_of(recipe, plan)
    streams = {d: tokenize(tokenizer, material.training_texts(d)) for d in mix}
    train(
        adapted,
        batches(streams, mix, **recipe["adapters"]["training"], seed=plan["seed"]),
        steps=plan["steps"],
        learning_rate=plan["learning_rate"],
        on_step=on_step,
        autocast=False,
    )
    adapters = folder / "adapters"
    adapters.mkdir(exist_ok=True)
    unfinished = adapters / f".{name}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    adapted.peft_config["default"].base_model_name_or_path = f"eval/zoo/models/{plan['start']}"
    adapted.save_pretrained(unfinished, save_embedding_layers=False)  # factors alone
    weights = unfinished / "adapter_model.safetensors"
    factors = {k: v.bfloat16().contiguous() for k, v in load_file(weights).items()}
    save_file(factors, weights, metadata={"format": "pt"})
    (unfinished / "README.md").write_text(adapter_card(name, recipe), encoding="utf-8")
    shutil.rmtree(adapters / name, ignore_errors=True)
    unfinished.rename(adapters / name)


def adapter_card(name: str, recipe: Mapping[str, Any]) -> str:
    """Render the card of one adapter in Markdown: start, rank, steps, mix and licences."""
    plan, general = adapter_plans(recipe)[name], recipe["adapters"]["training"]
    lora, mix = recipe["adapters"]["lora"], mix_of(recipe, plan)
    return f"""# {name}

{plan["about"]}

A LoRA adapter of `{plan["start"]}`, rank {lora["rank"]}, on every matrix of the layers, the embedding and the
LM head: {plan["steps"]} steps of {general["rows"]} windows of {general["length"]} tokens, peak learning rate
{plan["learning_rate"]:g}, seed {plan["seed"]}. Made for comparing merge methods; of no use for anything else.

{mix_table(mix)}

Texts: ../../DATA_CARD.md. Their licences: {licences_of(mix, recipe)}.
"""
