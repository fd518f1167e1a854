"""The recipe of the real model's benchmark and the texts it names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.smol.exercises import training_text
from scripts.zoo.items import common_words
from scripts.zoo.material import ZOO
from scripts.zoo.material import read_recipe as read_zoo_recipe
from scripts.zoo.texts import Document, read_documents

SMOL = Path(__file__).resolve().parents[2] / "eval" / "smol"
EXERCISES = "mathematics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Texts that adapters are trained on and passages are cut from."""

    documents: Mapping[str, Sequence[Document]]
    recipe: Mapping[str, Any]

    def training_texts(self, domain: str) -> list[str]:
        """Training texts of a domain, one per document."""
        if domain == EXERCISES:
            return training_text(self.recipe["exercises"]["training"], self.recipe["seed"])
        return [d.text for d in self.documents[domain] if d.split == "train"]

    def common_words(self) -> list[str]:
        """Common words of the English training documents, for the format exercises."""
        return common_words(self.training_texts("english"), self.recipe["words"])


def read_recipe() -> dict[str, Any]:
    """Read ``eval/smol/recipe.yaml``; the texts of ``eval/zoo/recipe.yaml`` are its texts too."""
    recipe: dict[str, Any] = yaml.safe_load((SMOL / "recipe.yaml").read_text(encoding="utf-8"))
    zoo = read_zoo_recipe()
    return recipe | {
        "texts": {**zoo["texts"], **recipe["texts"]},
        "words": zoo["words"],
    }


def read_material(recipe: Mapping[str, Any]) -> Material:
    """Fetch and read the texts; needs the package registries the first time."""
    return Material(documents=read_documents(recipe["texts"], ZOO / ".cache"), recipe=recipe)
