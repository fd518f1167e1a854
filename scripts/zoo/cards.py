"""The data card and the model cards of the embedded benchmark, written from the recipe."""

from collections.abc import Mapping
from typing import Any

from scripts.zoo.material import Material, mix_of

_SPLITS = ("train", "validation", "test")


def data_card(recipe: Mapping[str, Any], material: Material) -> str:
    """Which texts there are, under which licence, and how they were split, in Markdown."""
    packages = "\n".join(
        f"| {domain} | {package.get('deb') or package.get('wheel')} {package['version']} "
        f"| {'Debian 12' if 'deb' in package else 'Python package index'} | {package['licence']} |"
        for domain, packages in recipe["texts"].items()
        for package in packages
    )
    sizes = "\n".join(
        f"| {domain} | " + " | ".join(_size(documents, split) for split in _SPLITS) + " |"
        for domain, documents in sorted(material.documents.items())
    )
    return f"""# Data of the embedded benchmark

Written by `python -m scripts.build_zoo` from `recipe.yaml`; each package is checked against the
hash given there.

| domain | package | from | licence |
|---|---|---|---|
{packages}

Manual pages are stripped of their markup and of the sections on authors, licences and
translation (`roff.py`); of the Python packages only source files outside tests and locales are
read (`texts.py`). Documents of fewer than 800 characters and exact copies are left out.

A document belongs to a split by the hash of its name without the language, so that no
translation of a test page is trained on. Documents and millions of characters:

| domain | train | validation | test |
|---|---|---|---|
{sizes}

`mathematics`, `numbers` and `format` are generated (`exercises.py`); an exercise belongs to a split by the
hash of its prompt. Items of the tasks (`tasks/*.jsonl`) are drawn from validation and test
documents only, and a line that also stands in a training document is never the right answer of a
word-order item nor part of a passage (`items.py`; held by a test).

The items quote short passages of the packages above, each under its own licence.
"""


def model_card(name: str, recipe: Mapping[str, Any]) -> str:
    """What one model is and what it was trained on, in Markdown."""
    plan, general = recipe["models"][name], recipe["training"]
    mix = mix_of(recipe, plan)
    rows = "\n".join(f"| {domain} | {share:.1%} |" for domain, share in sorted(mix.items()))
    start = f"fine-tuned from `{plan['start']}`" if "start" in plan else "trained from scratch"
    licences = sorted({p["licence"] for domain in mix for p in recipe["texts"].get(domain, [])})
    return f"""# {name}

{plan["about"]}

A small Llama of the embedded benchmark, {start}: {plan["steps"]} steps of {general["rows"]}
windows of {general["length"]} tokens, peak learning rate {plan["learning_rate"]:g}, seed
{plan["seed"]}. Made for comparing merge methods; of no use for anything else.

| domain | share of training windows |
|---|---|
{rows}

Texts: ../../DATA_CARD.md. Their licences: {"; ".join(licences)}.
"""


def _size(documents: Any, split: str) -> str:  # noqa: ANN401
    texts = [d.text for d in documents if d.split == split]
    return f"{len(texts)} / {sum(map(len, texts)) / 1e6:.1f} M"
