"""JSON files of a model folder: configurations and indices, which are untrusted."""

import json
from pathlib import Path
from typing import Any


def read_object(path: Path, *, of: str) -> dict[str, Any]:
    """Read a file that must hold a JSON object.

    Args:
        path: The file.
        of: What a folder is that has it, such as "a model folder"; for the error.

    Raises:
        ValueError: If the file is absent, or is no JSON, or holds anything but an object.
    """
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}: it is not {of}")
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be parsed: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{path} must hold a JSON object, got {parsed!r:.40}")
    return parsed
