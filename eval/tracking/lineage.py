"""What a record was made from, as artifacts: the models, the merge of them, its score."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.records import RECORD_NAME, SAMPLES_NAME, Record
from eval.schema import to_json
from eval.tracking.content import without_paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Something a step of a run used or made; the same content gives the same artifact."""

    name: str
    """Unique within a project, and safe in a file's name."""
    kind: str
    """``model``, ``merge``, ``score`` or ``leaderboard``."""
    metadata: Mapping[str, Any]
    files: Mapping[str, bytes | Path]
    """Name within the artifact to its content, or to the file that has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a run: what went in and what came out."""

    job: str
    """``merge`` or ``evaluation``."""
    used: tuple[Artifact, ...]
    made: Artifact


def steps_of(record: Record, record_path: Path) -> tuple[Step, ...]:
    """Trace a record from the models to its score.

    A merge uses its pivot and sources; an evaluation uses the merge, or the unmerged model.
    What the last step makes holds the record.

    Args:
        record: Of a run that is done.
        record_path: Where it is on disk; its samples lie beside it.

    Returns:
        The merge and the evaluation of it, or one of them.

    Raises:
        ValueError: If the file is no JSON.
        FileNotFoundError: If there is none.
    """
    models = _models_of(record)
    saved = _saved(record_path)
    if record.kind == "reference":
        return (Step(job="evaluation", used=models, made=_score_of(record, saved)),)
    if record.suite is None:
        return (Step(job="merge", used=models, made=_merge_of(record, saved)),)
    merge = _merge_of(record, {})
    return (
        Step(job="merge", used=models, made=merge),
        Step(job="evaluation", used=(merge,), made=_score_of(record, saved)),
    )


def _models_of(record: Record) -> tuple[Artifact, ...]:
    """Pivot and sources; one that is both, or twice a source, is one artifact.

    The artifact's only file is the checksum of the weights, which stay where they are.
    """
    models = record.models.merged
    by_content = {model.content_hash: model for model in reversed(models)}
    return tuple(
        Artifact(
            name=f"model-{content}",
            kind="model",
            metadata=without_paths(to_json(by_content[content])),
            files={"weights.hash": content.encode()},
        )
        for content in dict.fromkeys(model.content_hash for model in models)
    )


def _merge_of(record: Record, more: Mapping[str, bytes | Path]) -> Artifact:
    """The merge report; the merged weights are not kept."""
    facts = {
        "method": record.name,
        "settings": dict(record.settings),
        "seed": record.seed,
        "dtype": record.dtype,
        "fingerprint": record.fingerprint,
    }
    return Artifact(
        name=f"merge-{record.name}-{record.fingerprint[:12]}",
        kind="merge",
        metadata=without_paths(facts),
        files={"merge.json": _json({**facts, "report": dict(record.merge)}), **more},
    )


def _score_of(record: Record, saved: Mapping[str, bytes | Path]) -> Artifact:
    scores = {task: score.value for task, score in record.scores.items()}
    suite = None if record.suite is None else to_json(record.suite)
    return Artifact(
        name=f"score-{record.name}-{record.fingerprint[:12]}",
        kind="score",
        metadata=without_paths({"suite": suite, "scores": scores}),
        files=saved,
    )


def _saved(record_path: Path) -> dict[str, bytes | Path]:
    """The record, less absolute paths, and the samples if there are any."""
    files: dict[str, bytes | Path] = {
        RECORD_NAME: _json(json.loads(record_path.read_text(encoding="utf-8")))
    }
    samples = record_path.with_name(SAMPLES_NAME)
    return files | ({SAMPLES_NAME: samples} if samples.is_file() else {})


def _json(value: Mapping[str, Any]) -> bytes:
    """Bytes as a record is written: a record without absolute paths keeps its own."""
    return (json.dumps(without_paths(value), sort_keys=True, indent=1) + "\n").encode()
