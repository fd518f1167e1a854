"""Loads a task's items from the file beside it: what lm-eval calls as a custom dataset."""

import json
from pathlib import Path

from datasets import Dataset


def items(file: str, **_: object) -> dict[str, Dataset]:
    """Read a JSONL file of items; each says its split."""
    path = Path(__file__).parent / file
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    splits = ("test", "validation")
    return {s: Dataset.from_list([r for r in rows if r["split"] == s]) for s in splits}
