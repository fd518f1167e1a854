"""LoRA adapters of the embedded models of other ancestry: their plans, their training, their cards."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.zoo.folders import replace_folder, save_factors
from scripts.zoo.material import Material, describe_mix, mix_of
from scripts.zoo.training import train_by_plan


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
    train_by_plan(
        adapted,
        tokenizer,
        plan,
        recipe,
        material,
        windows=recipe["adapters"]["training"],
        on_step=on_step,
        autocast=False,
    )
    with replace_folder(folder / "adapters" / name) as unfinished:
        save_factors(adapted, f"eval/zoo/models/{plan['start']}", unfinished)
        (unfinished / "README.md").write_text(adapter_card(name, recipe), encoding="utf-8")


def adapter_card(name: str, recipe: Mapping[str, Any]) -> str:
    """Render the card of one adapter in Markdown: start, rank, steps, mix and licences."""
    plan, general = adapter_plans(recipe)[name], recipe["adapters"]["training"]
    lora, mix = recipe["adapters"]["lora"], mix_of(recipe, plan)
    return f"""# {name}

{plan["about"]}

A LoRA adapter of `{plan["start"]}`, rank {lora["rank"]}, on every matrix of the layers, the embedding and the
LM head: {plan["steps"]} steps of {general["rows"]} windows of {general["length"]} tokens, peak learning rate
{plan["learning_rate"]:g}, seed {plan["seed"]}. Made for comparing merge methods; of no use for anything else.

{describe_mix(mix, recipe)}
"""
