"""Data card and adapter cards of the real model's benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.smol.material import EXERCISES, Material
from scripts.zoo.texts import Document

_SPLITS = ("train", "validation", "test")


def data_card(material: Material) -> str:
    """Render texts, licences and splits in Markdown."""
    recipe = material.recipe
    packages = "\n".join(
        f"| {domain} | {package.get('deb') or package.get('wheel')} {package['version']} "
        f"| {'Debian 12' if 'deb' in package else 'Python package index'} "
        f"| {package['licence']} |"
        for domain, listed in recipe["texts"].items()
        for package in listed
    )
    sizes = "\n".join(
        f"| {domain} | " + " | ".join(_size(documents, split) for split in _SPLITS) + " |"
        for domain, documents in sorted(material.documents.items())
    )
    base, limits = recipe["base"], recipe["passages"]
    return f"""# Data of the benchmark of a real model

Written by `python -m scripts.build_smol` from `recipe.yaml`; each package is checked against its
hash.

The base model is SmolLM2-135M-Instruct, as `{base["file"].rsplit("/", 1)[-1]}` in
{base["wheel"]} {base["version"]} of the Python package index, {base["licence"]}.

| domain | package | from | licence |
|---|---|---|---|
{packages}

Texts are read as those of the [embedded benchmark](../zoo/DATA_CARD.md) are. A document belongs to
a split by the hash of its name without the language, so that no translation of a test page is
trained on. Documents and millions of characters:

| domain | train | validation | test |
|---|---|---|---|
{sizes}

`{EXERCISES}` is generated: word problems of nine kinds with worked solutions
(`scripts/smol/exercises.py`); a problem belongs to a split by the hash of its question.
{recipe["exercises"]["training"]} are trained on.

Passages (`tasks/*_bits.jsonl`) are {limits["shortest"]} to {limits["longest"]} characters of whole
lines of validation and test documents, none overlapping; lines that a training document holds too
make at most a quarter of one. Nobody was tuned for: {", ".join(recipe["held_out"])}.

The items quote short passages of the packages above, each under its own licence. What the base
model read before is not known: it may have seen any of these texts.
"""


def adapter_card(name: str, recipe: Mapping[str, Any]) -> str:
    """Render the card of an adapter in Markdown: training, texts and licences."""
    plan, training, lora = recipe["adapters"][name], recipe["training"], recipe["lora"]
    licences = sorted(
        {p["licence"] for domain in plan["domains"] for p in recipe["texts"].get(domain, [])}
    )
    generated = ["generated exercises: this repository's"] * (EXERCISES in plan["domains"])
    return f"""# {name}

{plan["about"]}

A LoRA adapter of SmolLM2-135M-Instruct (dequantised from GGUF Q4_1): rank {lora["rank"]}, alpha
{lora["alpha"]}, on {", ".join(lora["target_modules"])}; {plan["steps"]} steps of
{training["rows"]} windows of {training["length"]} tokens, peak learning rate
{training["learning_rate"]:g}, seed {plan["seed"]}. Domains: {", ".join(plan["domains"])}.

Texts: ../../DATA_CARD.md. Licences: {"; ".join([*licences, *generated])}.
"""


def _size(documents: Sequence[Document], split: str) -> str:
    texts = [d.text for d in documents if d.split == split]
    return f"{len(texts)} / {sum(map(len, texts)) / 1e6:.1f} M"
