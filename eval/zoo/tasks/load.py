"""Loads a task's items from the file beside it: what lm-eval calls as a custom dataset."""

import json
from pathlib import Path
from typing import Any


def items(file: str, **_: Any) -> dict[str, list[dict[str, Any]]]:
    """Read a JSONL file of items; each says its split."""
    path = Path(__file__).parent / file
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {split: [r for r in rows if r["split"] == split] for split in ("test", "validation")}
