"""Build the embedded benchmark from its recipe: items, tokenizers, models, each once."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.zoo.cards import model_card
from scripts.zoo.corpus import batches, tokenize, train_tokenizer
from scripts.zoo.items import (
    exercise_items,
    exercise_passages,
    lines_of,
    passage_items,
    word_order_items,
)
from scripts.zoo.material import Material, mix_of
from scripts.zoo.texts import Split
from scripts.zoo.training import fresh_model, save_model, train

_HELD_OUT: tuple[Split, ...] = ("test", "validation")
_PER_SPLIT = 200
_ORDERED = ("code", "french", "german")
"""Domains with a word-order task: those of the text experts."""
_ANSWERED = ("numbers", "format")
"""Domains with exercises to answer: those of the other experts."""
_Rows = dict[Split, list[dict[str, Any]]]


def build_items(material: Material, folder: Path) -> dict[str, int]:
    """Write the items of every task, test and validation, as JSONL.

    Returns:
        File name to number of items.
    """
    # Of every domain: a page may quote what stands in another language's training pages.
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


def _both(make: Callable[..., list[dict[str, Any]]], of: Any, *rest: Any) -> _Rows:  # noqa: ANN401
    """Draw the items of a task for each split that nothing is trained on."""
    return {split: make(of, split, _PER_SPLIT, *rest) for split in _HELD_OUT}


def build_model(
    name: str,
    recipe: Mapping[str, Any],
    material: Material,
    folder: Path,
    on_step: Callable[[int, float], None],
) -> None:
    """Train one model of the recipe and write its folder whole.

    Args:
        name: Key under ``models`` in the recipe.
        recipe: The recipe.
        material: Texts and exercises.
        folder: Folder of all models; ``folder / name`` is written, and its start, if the
            recipe names one, is read from there.
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
    mix = mix_of(recipe, plan)
    streams = {d: tokenize(tokenizer, material.training_texts(d)) for d in mix}
    windows = recipe["training"]
    train(
        model,
        batches(streams, mix, **windows, seed=plan["seed"]),
        steps=plan["steps"],
        learning_rate=plan["learning_rate"],
        on_step=on_step,
    )
    unfinished = folder / f".{name}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    save_model(model, unfinished)
    if start is None:
        tokenizer.save_pretrained(unfinished)
    else:  # byte for byte: loading and saving would add keys
        for file in (folder / start).glob("tokenizer*.json"):
            shutil.copy(file, unfinished)
    (unfinished / "README.md").write_text(model_card(name, recipe), encoding="utf-8")
    shutil.rmtree(folder / name, ignore_errors=True)
    unfinished.rename(folder / name)


def _tokenizer(
    recipe: Mapping[str, Any], name: str, material: Material
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on texts in the shares of its mix."""
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
