"""Rebuild the embedded benchmark, or check that it tells methods apart.

python -m scripts.build_zoo            texts, items and models; finished models are kept
python -m scripts.build_zoo --check    the table of what the benchmark must show
"""

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from eval.zoo.build import build_items, build_model
from eval.zoo.cards import data_card
from eval.zoo.material import ZOO, read_material, read_recipe
from scripts.check_zoo import check

_REPORT_EVERY = 10


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only print the check table")
    parser.add_argument("--force", action="store_true", help="train finished models again")
    parser.add_argument("--folder", type=Path, default=ZOO, help="where to build")
    options = parser.parse_args()
    if options.check:
        sys.exit(0 if check(options.folder / "models", Console()) else 1)
    build(options.folder, force=options.force)


def build(folder: Path, *, force: bool) -> None:
    """Write items and cards, then train every model that is not there, two at a time."""
    recipe, console = read_recipe(), Console()
    console.print("reading texts (downloaded on the first run)")
    material = read_material(recipe)
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    (folder / "tasks").mkdir(exist_ok=True)
    counts = build_items(material, folder / "tasks")
    console.print(f"wrote {sum(counts.values())} items for {len(counts)} tasks")
    (folder / "DATA_CARD.md").write_text(data_card(recipe, material), encoding="utf-8")
    waiting = [
        n for n in recipe["models"] if force or not (models / n / "config.json").is_file()
    ]
    _train_all(waiting, recipe, models, console)


def _train_all(
    waiting: list[str], recipe: dict[str, Any], models: Path, console: Console
) -> None:
    """Train models side by side, each as soon as the one it starts from is there."""
    jobs = 1 if torch.cuda.is_available() else max(1, os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")
    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn())
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(jobs, mp_context=context) as pool,
        Progress(
            *columns, TextColumn("{task.fields[loss]}"), TimeRemainingColumn(), console=console
        ) as bar,
    ):
        news: Queue[tuple[str, int, float]] = manager.Queue()
        rows = {
            name: bar.add_task(name, total=recipe["models"][name]["steps"], loss="")
            for name in waiting
        }
        running: dict[Future[None], str] = {}
        waiting = list(waiting)
        while waiting or running:
            for name in _ready(waiting, running, recipe, jobs):
                waiting.remove(name)
                running[pool.submit(_train_one, name, models, news)] = name
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            while not news.empty():
                name, step, loss = news.get()
                bar.update(rows[name], completed=step, loss=f"loss {loss:.3f}")
            for future in done:
                future.result()
                console.print(f"trained {running.pop(future)}")


def _ready(
    waiting: list[str], running: dict[Future[None], str], recipe: dict[str, Any], jobs: int
) -> list[str]:
    """The models that can start now: as many as there are free processes."""
    unfinished = {*waiting, *running.values()}
    can = [n for n in waiting if recipe["models"][n].get("start") not in unfinished]
    return can[: jobs - len(running)]


def _train_one(name: str, models: Path, news: "Queue[tuple[str, int, float]]") -> None:
    """Train one model in a process of its own, on one core."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    recipe = read_recipe()
    report = partial(_report, name, news)
    build_model(name, recipe, read_material(recipe), models, report)


def _report(name: str, news: "Queue[tuple[str, int, float]]", step: int, loss: float) -> None:
    if step % _REPORT_EVERY == 0:
        news.put((name, step, loss))


if __name__ == "__main__":
    main()
