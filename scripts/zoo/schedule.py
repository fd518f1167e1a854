"""Train the models of the recipe side by side, each as soon as the one it starts from is there."""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
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

from scripts.zoo.build import build_model
from scripts.zoo.material import read_material, read_recipe

_REPORT_EVERY = 10
_LINE_EVERY = 200
_News = tuple[str, int, float]
"""Model, step, loss."""


def train_models(
    names: Sequence[str], recipe: Mapping[str, Any], folder: Path, console: Console
) -> None:
    """Train models, one process per core, or one after another on a GPU.

    Args:
        names: Models of the recipe to train; those they start from are among them or on disk.
        recipe: The recipe; the processes read it again from its file.
        folder: Folder of the models.
        console: Where the progress bars go; without a terminal, a line now and then.
    """
    plans, waiting = recipe["models"], list(names)
    jobs = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(jobs, mp_context=context) as pool,
        _bars(console) as bars,
    ):
        news: Queue[_News] = manager.Queue()
        rows = {n: bars.add_task(n, total=plans[n]["steps"], loss=0.0) for n in names}
        running: dict[Future[None], str] = {}
        while waiting or running:
            for name in _ready(waiting, running, plans)[: jobs - len(running)]:
                waiting.remove(name)
                running[pool.submit(_train_one, name, folder, news)] = name
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            while not news.empty():
                name, step, loss = news.get()
                bars.update(rows[name], completed=step, loss=loss)
                if not console.is_terminal and step % _LINE_EVERY == 0:
                    console.print(f"{name}: step {step}, loss {loss:.3f}")
            for future in done:
                future.result()
                console.print(f"trained {running.pop(future)}")


def _bars(console: Console) -> Progress:
    name, loss = TextColumn("{task.description:12}"), TextColumn("loss {task.fields[loss]:.3f}")
    columns = (name, BarColumn(), MofNCompleteColumn(), loss, TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _ready(
    waiting: Sequence[str], running: Mapping[Future[None], str], plans: Mapping[str, Any]
) -> list[str]:
    """The models whose start is finished, or that have none."""
    unfinished = {*waiting, *running.values()}
    return [name for name in waiting if plans[name].get("start") not in unfinished]


def _train_one(name: str, folder: Path, news: "Queue[_News]") -> None:
    """Train one model in a process of its own, on one core."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    recipe = read_recipe()
    build_model(name, recipe, read_material(recipe), folder, partial(_report, name, news))


def _report(name: str, news: "Queue[_News]", step: int, loss: float) -> None:
    if step % _REPORT_EVERY == 0:
        news.put((name, step, loss))
