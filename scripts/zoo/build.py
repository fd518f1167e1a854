"""Rebuild the embedded benchmark from its recipe, or check that it separates merge methods.

python -m scripts.zoo.build            items, cards and missing models, in parallel
python -m scripts.zoo.build --check    the claims about experts, gap and spread
"""

import argparse
import functools
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
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
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.zoo.adapters import adapter_plans, build_adapter
from scripts.zoo.folders import replace_folder
from scripts.zoo.items import (
    exercise_items,
    exercise_passages,
    lines_of,
    passage_items,
    word_order_items,
)
from scripts.zoo.material import (
    ZOO,
    Material,
    data_card,
    model_card,
    read_material,
    read_recipe,
)
from scripts.zoo.separation import check
from scripts.zoo.texts import Split
from scripts.zoo.training import fresh_model, save_model, train_by_plan, train_tokenizer

_HELD_OUT: tuple[Split, ...] = ("test", "validation")
_PER_SPLIT = 200
_ORDERED = ("code", "french", "german")
"""Domains with a word-order task: those of the text experts."""
_ANSWERED = ("numbers", "format")
"""Domains with exercises to answer: those of the other experts."""
_Rows = dict[Split, list[dict[str, Any]]]
_Maker = Callable[..., list[dict[str, Any]]]
_REPORT_EVERY = 10
_LINE_EVERY = 200
_News = tuple[str, int, float]
"""Model, step, loss."""


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
    plans = plans_of(recipe)
    missing = [name for name in plans if not _is_built(name, recipe, folder)]
    train_models(list(plans) if force else missing, plans, folder, console)


def plans_of(recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Plans of all that is trained, by name: models, then adapters."""
    return {**recipe["models"], **adapter_plans(recipe)}


def _is_built(name: str, recipe: Mapping[str, Any], folder: Path) -> bool:
    if name in recipe["models"]:
        return (folder / "models" / name / "config.json").is_file()
    return (folder / "adapters" / name / "adapter_config.json").is_file()


def build_items(material: Material, folder: Path) -> dict[str, int]:
    """Write the items of every task, test and validation, as JSONL.

    Returns:
        File name to number of items.
    """
    # lines of all domains: a page may quote a line of another language's training pages
    seen = {line for d in material.documents.values() for line in lines_of(d, "train")}
    rows: dict[str, _Rows] = {}
    for domain, documents in material.documents.items():
        rows[f"{domain}_bits"] = _both(passage_items, documents, material.seed, seen)
        if domain in _ORDERED:
            rows[f"{domain}_order"] = _both(word_order_items, documents, material.seed, seen)
    for kind in _ANSWERED:
        answers = _both(exercise_items, kind, material.seed, material.words)
        rows[f"{kind}_answer"] = answers
        rows[f"{kind}_bits"] = {
            split: exercise_passages(
                kind, split, _PER_SPLIT, material.seed, material.words, answers[split]
            )
            for split in _HELD_OUT
        }
    return {f"{task}.jsonl": _write_rows(folder / f"{task}.jsonl", rows[task]) for task in rows}


def _both(make: _Maker, of: Any, *rest: Any) -> _Rows:  # noqa: ANN401
    """Draw a task's items for the validation and the test split."""
    return {split: make(of, split, _PER_SPLIT, *rest) for split in _HELD_OUT}


def build_model(
    name: str,
    recipe: Mapping[str, Any],
    material: Material,
    folder: Path,
    on_step: Callable[[int, float], None],
) -> None:
    """Train one model of the recipe and write its folder atomically.

    Args:
        name: Key under ``models`` in the recipe.
        recipe: The recipe.
        material: Texts and exercises.
        folder: Folder of all models; ``folder / name`` is written, and the model that training
            starts from, if the recipe names one, is read from ``folder``.
        on_step: Called with (step, loss in nats) after every step.
    """
    plan = recipe["models"][name]
    start = plan.get("start")
    if start is None:
        tokenizer = _tokenizer(recipe, plan["tokenizer"], material)
        model = fresh_model(recipe["shapes"][plan["shape"]], len(tokenizer), plan["seed"])
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / start)
        model = LlamaForCausalLM.from_pretrained(folder / start, dtype=torch.float32)
    train_by_plan(
        model,
        tokenizer,
        plan,
        recipe,
        material,
        windows=recipe["training"],
        on_step=on_step,
    )
    with replace_folder(folder / name) as unfinished:
        save_model(model, unfinished)
        if start is None:
            tokenizer.save_pretrained(unfinished)
        else:  # byte for byte: loading and saving would add keys
            for file in (folder / start).glob("tokenizer*.json"):
                shutil.copy(file, unfinished)
        (unfinished / "README.md").write_text(model_card(name, recipe), encoding="utf-8")


def _tokenizer(
    recipe: Mapping[str, Any], name: str, material: Material
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on texts sampled by the shares of its mix."""
    plan = recipe["tokenizers"][name]
    texts: list[str] = []
    mix: dict[str, float] = recipe["mixes"][plan["mix"]]
    for domain, share in sorted(mix.items()):
        wanted, taken = share / sum(mix.values()) * plan["characters"], 0
        for text in material.training_texts(domain):
            if taken >= wanted:
                break
            texts.append(text)
            taken += len(text)
    return train_tokenizer(texts, plan["vocabulary"])


def _write_rows(path: Path, rows: _Rows) -> int:
    lines = [
        json.dumps({"split": split, **row}, ensure_ascii=False)
        for split, items in rows.items()
        for row in items
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def train_models(
    names: Sequence[str], plans: Mapping[str, Any], folder: Path, console: Console
) -> None:
    """Train models and adapters, one process per core, or one after another on a GPU.

    Args:
        names: What to train; the models that training starts from are among them or on disk.
        plans: Of all that the recipe names; the processes read it again from its file.
        folder: Folder of the benchmark.
        console: Shows progress bars; without a terminal, a line every 200 steps.
    """
    waiting = list(names)
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
    """Models that can start: their parent is trained, or they have none."""
    unfinished = {*waiting, *running.values()}
    return [name for name in waiting if plans[name].get("start") not in unfinished]


def _train_one(name: str, folder: Path, news: "Queue[_News]") -> None:
    """Train one model or adapter in a worker process, on one core."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    recipe = read_recipe()
    material, on_step = _own_material(), partial(_report, name, news)
    if name in recipe["models"]:
        build_model(name, recipe, material, folder / "models", on_step)
    else:
        build_adapter(name, recipe, material, folder, on_step)


@functools.cache
def _own_material() -> Material:
    """Read the texts once in a worker process."""
    return read_material(read_recipe())


def _report(name: str, news: "Queue[_News]", step: int, loss: float) -> None:
    if step % _REPORT_EVERY == 0:
        news.put((name, step, loss))


if __name__ == "__main__":
    main()
