"""The recipe, the training texts and mixes it names, and the cards written from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from scripts.zoo.items import common_words, draw
from scripts.zoo.texts import Document, read_documents

ZOO = Path(__file__).resolve().parents[2] / "eval" / "zoo"
EXERCISES = ("mathematics", "numbers", "format")
_EXERCISES_PER_DOCUMENT, _EXERCISE_DOCUMENTS = 100, 600
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Texts that models are trained on and items are drawn from."""

    documents: Mapping[str, Sequence[Document]]
    words: Sequence[str]
    """Common words of the English training documents: the vocabulary of format exercises."""
    seed: int

    def training_texts(self, domain: str) -> list[str]:
        """Training texts of a domain, one per document."""
        if domain not in EXERCISES:
            return [d.text for d in self.documents[domain] if d.split == "train"]
        drawn = draw(domain, "train", self.seed, self.words)
        return [
            "".join(exercise.text for exercise in islice(drawn, _EXERCISES_PER_DOCUMENT))
            for _ in range(_EXERCISE_DOCUMENTS)
        ]


def read_recipe() -> dict[str, Any]:
    """Read ``eval/zoo/recipe.yaml``."""
    recipe: dict[str, Any] = yaml.safe_load((ZOO / "recipe.yaml").read_text(encoding="utf-8"))
    return recipe


def read_material(recipe: Mapping[str, Any]) -> Material:
    """Fetch and read the texts; needs the package registries the first time."""
    documents = read_documents(recipe["texts"], ZOO / ".cache")
    english = (d.text for d in documents["english"] if d.split == "train")
    return Material(
        documents=documents, words=common_words(english, recipe["words"]), seed=recipe["seed"]
    )


def mix_of(recipe: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, float]:
    """Share of each domain in a model's training windows.

    Those of the plan's own domains are its ``share``, half if it names none; the rest follow its mix.
    """
    general: dict[str, float] = recipe["mixes"][plan["mix"]]
    total = sum(general.values())
    own = plan.get("domains", [])
    share = plan.get("share", 0.5) if own else 0.0
    mix = {domain: (1 - share) * weight / total for domain, weight in general.items()}
    for domain in own:
        mix[domain] = mix.get(domain, 0.0) + share / len(own)
    return mix


def experts_of(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Map each model that is tuned for one domain to that domain."""
    plans: dict[str, dict[str, Any]] = recipe["models"]
    return {n: p["domains"][0] for n, p in plans.items() if len(p.get("domains", [])) == 1}


def data_card(recipe: Mapping[str, Any], material: Material) -> str:
    """Render the data card in Markdown: texts, licences and splits."""
    packages = "\n".join(
        f"| {domain} | {package.get('deb') or package.get('wheel')} {package['version']} "
        f"| {'Debian 12' if 'deb' in package else 'Python package index'} "
        f"| {package['licence']} |"
        for domain, packages in recipe["texts"].items()
        for package in packages
    )
    sizes = "\n".join(
        f"| {domain} | " + " | ".join(_size(documents, split) for split in _SPLITS) + " |"
        for domain, documents in sorted(material.documents.items())
    )
    return f"""# Data of the embedded benchmark

Written by `python -m scripts.zoo.build` from `recipe.yaml`; each package is checked against the
hash given there.

| domain | package | from | licence |
|---|---|---|---|
{packages}

Manual pages are stripped of their markup and of the sections on authors, licences and
translation; of the Python packages only source files outside tests and locales are read
(`scripts/zoo/texts.py`). Documents of fewer than 800 characters and exact copies are left out.

A document belongs to a split by the hash of its name without the language, so that no
translation of a test page is trained on. Documents and millions of characters:

| domain | train | validation | test |
|---|---|---|---|
{sizes}

`mathematics`, `numbers` and `format` are generated; an exercise belongs to a split by the hash
of its prompt. Items of the tasks (`tasks/*.jsonl`) are drawn from validation and test documents
only, and a line that also occurs in a training document is never the right answer of a
word-order item nor part of a passage (`scripts/zoo/items.py`; held by a test).

The items quote short passages of the packages above, each under its own licence.
"""


def model_card(name: str, recipe: Mapping[str, Any]) -> str:
    """Render the card of one model in Markdown: start, steps, mix and licences."""
    plan, general = recipe["models"][name], recipe["training"]
    mix = mix_of(recipe, plan)
    start = f"fine-tuned from `{plan['start']}`" if "start" in plan else "trained from scratch"
    return f"""# {name}

{plan["about"]}

A small Llama of the embedded benchmark, {start}: {plan["steps"]} steps of {general["rows"]}
windows of {general["length"]} tokens, peak learning rate {plan["learning_rate"]:g}, seed
{plan["seed"]}. Made for comparing merge methods; of no use for anything else.

{describe_mix(mix, recipe)}
"""


def describe_mix(mix: Mapping[str, float], recipe: Mapping[str, Any]) -> str:
    """Render a mix for a card in Markdown: share of each domain, licences of the texts."""
    rows = "\n".join(f"| {domain} | {share:.1%} |" for domain, share in sorted(mix.items()))
    licences = {p["licence"] for domain in mix for p in recipe["texts"].get(domain, [])}
    return f"""| domain | share of training windows |
|---|---|
{rows}

Texts: ../../DATA_CARD.md. Their licences: {"; ".join(sorted(licences))}."""


def _size(documents: Any, split: str) -> str:  # noqa: ANN401
    texts = [d.text for d in documents if d.split == split]
    return f"{len(texts)} / {sum(map(len, texts)) / 1e6:.1f} M"
