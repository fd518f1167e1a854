"""Rebuild the embedded benchmark, or check that it separates merge methods.

python -m scripts.build_zoo            items, cards and missing models
python -m scripts.build_zoo --check    the claims about experts, gap and spread
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from scripts.zoo.build import build_items, train_models
from scripts.zoo.material import ZOO, data_card, read_material, read_recipe
from scripts.zoo.separation import check


def main() -> None:
    """Build, or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only print the check table")
    parser.add_argument("--output", default="results/zoo_check", help="runs of the check")
    parser.add_argument("--force", action="store_true", help="train finished models again")
    parser.add_argument("--folder", type=Path, default=ZOO, help="where to build")
    options = parser.parse_args()
    if options.check:
        sys.exit(0 if check(options.output, Console()) else 1)
    build(options.folder, Console(), force=options.force)


def build(folder: Path, console: Console, *, force: bool) -> None:
    """Write items and the data card, then train every missing model.

    Args:
        folder: Folder of the benchmark, ``eval/zoo``.
        console: Shows progress.
        force: Train models again that are already there.
    """
    console.print("reading texts (downloaded on the first run)")
    recipe = read_recipe()
    material = read_material(recipe)
    models, tasks = folder / "models", folder / "tasks"
    models.mkdir(parents=True, exist_ok=True)
    tasks.mkdir(exist_ok=True)
    counts = build_items(material, tasks)
    console.print(f"wrote {sum(counts.values())} items for {len(counts)} tasks")
    (folder / "DATA_CARD.md").write_text(data_card(recipe, material), encoding="utf-8")
    missing = [n for n in recipe["models"] if not (models / n / "config.json").is_file()]
    train_models(list(recipe["models"]) if force else missing, recipe, models, console)


if __name__ == "__main__":
    main()
