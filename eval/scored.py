"""Scores as lm-eval gives them: what a run keeps until they are in its record.

Scoring is the costly part of a run. If what comes after it fails, the scores are written beside
the run's record, and the same command goes on from them.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.run_files import atomic_write

SCORED_NAME = "scored.json.gz"
_FIELDS = ("doc_id", "doc_hash", "filter", "metrics")
_MOST_BYTES = 2**31
"""Largest size of the unpacked file."""
_DAMAGED = (OSError, EOFError, ValueError, TypeError, KeyError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Results of lm-eval on a suite, before they are scores of ours."""

    results: Mapping[str, Mapping[str, Any]]
    """Task to ``metric,filter`` to value."""
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    """Task to its documents: number, hash, filter, names of metrics and their values."""
    versions: Mapping[str, Any]
    """Task to its version."""
    caps: dict[str, int]
    """Task to the most tokens of an answer, where the model reads too few for the task's own."""
    max_length: int
    """Tokens that the model reads."""


def scored_from(
    results: Mapping[str, Any], *, caps: Mapping[str, int], max_length: int
) -> Scored:
    """Take from lm-eval's results what scores are made of; texts of documents are left out."""
    return Scored(
        results=results["results"],
        samples={
            task: [
                {key: sample[key] for key in (*_FIELDS, *sample["metrics"]) if key in sample}
                for sample in logged
            ]
            for task, logged in results["samples"].items()
        },
        versions=results["versions"],
        caps=dict(caps),
        max_length=max_length,
    )


def write_scored(path: Path, scored: Scored) -> None:
    """Write scores to a file, whole or not at all.

    Raises:
        OSError: If it cannot be written.
        TypeError: If a value is of a type that JSON has not.
    """
    content = {
        "results": _packed(scored.results),
        "samples": _packed(scored.samples),
        "versions": _packed(scored.versions),
        "caps": scored.caps,
        "max_length": scored.max_length,
    }
    atomic_write(path, gzip.compress(json.dumps(content).encode(), mtime=0))


def where_kept(folder: Path, *, has_own_tasks: bool) -> str:
    """Say where scores are kept, and what takes them up.

    Args:
        folder: Of the run.
        has_own_tasks: The tasks are files of the user's, which are part of a run's identity.
    """
    edited = ", an edited task is another run" if has_own_tasks else ""
    return (
        f"raised after the model was scored: merge and scores are kept in {folder}, and the same "
        f"command goes on from them (force=true repeats all{edited})"
    )


def read_scored(path: Path) -> Scored:
    """Read the scores that :func:`write_scored` wrote.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with gzip.open(path) as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it unpacks to more than {_MOST_BYTES} bytes")
        content = json.loads(text)
        return Scored(
            results=_unpacked(content["results"]),
            samples=_unpacked(content["samples"]),
            versions=_unpacked(content["versions"]),
            caps={str(task): int(cap) for task, cap in content["caps"].items()},
            max_length=int(content["max_length"]),
        )
    except (*_DAMAGED, AttributeError) as error:
        raise ValueError(f"{path} holds no scores ({type(error).__name__})") from error


def _packed(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """Return a value in JSON's types; tuples and objects are told from lists and each other."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {"object": [[key, _packed(inner)] for key, inner in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_packed(inner) for inner in value]}
    if isinstance(value, list | np.ndarray):
        return [_packed(inner) for inner in value]
    return value


def _unpacked(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return [_unpacked(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_unpacked(inner) for inner in value["tuple"])
    return {key: _unpacked(inner) for key, inner in value["object"]}
