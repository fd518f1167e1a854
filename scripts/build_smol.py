"""Build the benchmark of a real model: items of its tasks, its cards, and missing adapters.

python -m scripts.build_smol                      items, cards, and the adapters that are missing
python -m scripts.build_smol --adapters code      this adapter only
python -m scripts.build_smol --force              adapters again that are there
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.smol.adapters import train_adapter
from scripts.smol.base import BASE, prepare_base
from scripts.smol.cards import adapter_card, data_card
from scripts.smol.exercises import answer_items
from scripts.smol.exercises import passage_items as solved_passages
from scripts.smol.material import EXERCISES, SMOL, Material, read_material, read_recipe
from scripts.smol.passages import passages
from scripts.zoo.items import exercise_items
from scripts.zoo.texts import Split

_HELD_OUT: tuple[Split, ...] = ("test", "validation")


def main(arguments: Sequence[str]) -> int:
    """Build what is missing; 0, or 2 for an adapter that the recipe lacks."""
    parser = argparse.ArgumentParser(
        prog="build_smol", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--adapters", help="names in eval/smol/recipe.yaml, with commas")
    parser.add_argument("--force", action="store_true", help="train finished adapters again")
    parser.add_argument("--folder", type=Path, default=SMOL, help="where to build")
    options = parser.parse_args(arguments)
    recipe = read_recipe()
    names = options.adapters.split(",") if options.adapters else list(recipe["adapters"])
    if unknown := sorted(set(names) - set(recipe["adapters"])):
        print(
            f"--adapters must be of {sorted(recipe['adapters'])}, got {unknown}",
            file=sys.stderr,
        )
        return 2
    print("reading texts (downloaded on the first run)")
    material = read_material(recipe)
    build_items(material, options.folder / "tasks")
    (options.folder / "DATA_CARD.md").write_text(data_card(material), encoding="utf-8")
    _train(names, material, options.folder, force=options.force)
    return 0


def build_items(material: Material, folder: Path) -> None:
    """Write the items of every task, test and validation, as JSONL."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = material.recipe
    limits, seed = recipe["passages"], recipe["seed"]
    exercises: int = recipe["exercises"]["per_split"]
    for domain, documents in material.documents.items():
        rows = {
            split: passages(
                documents,
                split,
                count=limits["per_split"],
                shortest=limits["shortest"],
                longest=limits["longest"],
                seed=seed,
            )
            for split in _HELD_OUT
        }
        _write_rows(folder / f"{domain}_bits.jsonl", rows)
    words = material.common_words()
    rows = {s: exercise_items("format", s, exercises, seed, words) for s in _HELD_OUT}
    _write_rows(folder / "format_answer.jsonl", rows)
    for task, make in (("bits", solved_passages), ("answer", answer_items)):
        rows = {split: make(split, exercises, seed) for split in _HELD_OUT}
        _write_rows(folder / f"{EXERCISES}_{task}.jsonl", rows)


def _write_rows(path: Path, rows: Mapping[Split, Sequence[Mapping[str, Any]]]) -> None:
    lines = [
        json.dumps({"split": split, **row}, ensure_ascii=False)
        for split, items in rows.items()
        for row in items
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {len(lines)} items to {path.name}")


def _train(names: Sequence[str], material: Material, folder: Path, *, force: bool) -> None:
    """Train the adapters that are not there yet, and write their cards."""
    recipe, adapters = material.recipe, folder / "adapters"
    adapters.mkdir(parents=True, exist_ok=True)
    missing = [n for n in names if force or not (adapters / n / "adapter_config.json").exists()]
    if missing:
        prepare_base(recipe["base"])
    for name in missing:
        plan = recipe["adapters"][name]
        print(f"training {name}: {plan['steps']} steps")
        train_adapter(
            name,
            {domain: material.training_texts(domain) for domain in plan["domains"]},
            recipe,
            base=BASE,
            base_name=BASE.relative_to(SMOL.parents[1]).as_posix(),
            folder=adapters / name,
            work=adapters / f".{name}.checkpoints",
        )
    for name in names:
        (adapters / name / "README.md").write_text(adapter_card(name, recipe), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
