"""Record of a run: its fields, reading it, writing it with its samples."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eval.metric_kinds import REPORTED, TaskMetric
from eval.record_checks import (
    check_cost,
    check_metric,
    check_origin,
    check_provenance,
    check_suite_entries,
)
from eval.run_files import atomic_write, unreadable
from eval.sample_file import SAMPLES_NAME, Sample, pack_samples
from eval.schema import IF_ANY, LISTED_BY, build, check_json, to_json

SCHEMA_VERSION = 1

RECORD_NAME = "record.json"
_KINDS = ("merge", "reference")
_LARGEST_ERROR = 1e9
"""Standard errors of fractions are far below it; its square is still finite."""
_STATUSES = ("done", "failed", "not applicable")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One task's headline number."""

    value: float
    """Fraction in [0, 1], higher is better."""
    stderr: float
    """One standard error of ``value``, from the samples."""
    n: int
    """Number of samples behind it."""
    raw: float
    """The metric as the task reports it, in its own unit."""
    raw_metric: str
    higher_is_better: bool
    """True if more of ``raw`` is better; more of ``value`` always is."""

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"a score must be in [0, 1], got {self.value} ({self.raw_metric})")
        if not (0 <= self.stderr <= _LARGEST_ERROR and math.isfinite(self.raw)):
            raise ValueError(f"a score's stderr and raw value must be finite, got {self}")
        if self.n < 1:
            raise ValueError(f"a score must have samples behind it, got n = {self.n}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """Time and memory of one stage of a run."""

    seconds: float
    peak_rss_bytes: int
    base_rss_bytes: int
    """Resident memory just before the stage, after a collection."""
    peak_anon_bytes: int | None
    """Peak without memory-mapped files, sampled; None where the system has no such count."""
    peak_gpu_bytes: int | None
    """Peak allocated by torch on the device; None without one."""
    source: str
    """``VmHWM`` (the kernel's own peak) or ``sampled``."""

    def __post_init__(self) -> None:
        sizes = {k: v for k, v in asdict(self).items() if k.endswith("_bytes")}
        check_cost(self.seconds, sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """A model as a record names it."""

    name: str
    location: str
    """Folder, or id on the Hub."""
    revision: str | None
    """Branch, tag or commit asked for."""
    content_hash: str
    """Hash of its weights: the same model under any name and place."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Commits on the Hub; ``dequantised_from`` of a model converted from GGUF."""

    @property
    def base_hash(self) -> str | None:
        """Content hash of the base of its own that a source was moved with; None without."""
        base = self.more.get("base")
        content = base.get("content_hash") if isinstance(base, Mapping) else None
        return content if isinstance(content, str) else None

    @property
    def version(self) -> str:
        """Commit on the Hub where it is known, else the revision; empty for a folder."""
        return str(self.more.get("commit") or self.revision or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRef:
    """The models of a run."""

    pool: str
    """Name of the pool."""
    pivot: ModelRef
    """The unmerged model itself in the record of a reference."""
    sources: tuple[ModelRef, ...]
    references: tuple[ModelRef, ...]

    @property
    def merged(self) -> tuple[ModelRef, ...]:
        """Pivot and sources, in order."""
        return (self.pivot, *self.sources)

    @property
    def content(self) -> str:
        """Content hashes of pivot, sources and bases of their own.

        Equal where the same weights are merged.
        """
        hashes = [
            h for model in self.merged for h in (model.content_hash, model.base_hash) if h
        ]
        return " ".join(hashes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRef:
    """The suite a run was evaluated on, as its record describes it."""

    name: str
    split: str | None
    """None: each task's own."""
    fingerprint: str
    """Hash of all that defines the suite's numbers."""
    held_out: tuple[str, ...]
    """Domains that no source was tuned for; changes no score."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """``limit``, ``lm_eval``, ``tasks`` and so on: the contract the scores hold under."""

    @property
    def groups(self) -> Mapping[str, Mapping[str, float]]:
        """Groups of lm-eval to the shares of their subtasks in their scores, adding up to 1."""
        groups: Mapping[str, Mapping[str, float]] = self.more.get("groups", {})
        return groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything needed to place a run on the leaderboard and to repeat it."""

    fingerprint: str
    """Hash of what defines the run's numbers, ``provenance["identity"]``."""
    kind: str
    """``merge`` or ``reference`` (an unmerged model)."""
    status: str
    """``done``, ``failed``, or ``not applicable``: the method refused such models."""
    name: str
    """Method of a merge, short name of a reference."""
    settings: Mapping[str, Any]
    models: PoolRef
    suite: SuiteRef | None
    """None when only merged."""
    seed: int
    dtype: str | None
    scores: Mapping[str, Score] = field(metadata={LISTED_BY: "task"})
    """Task name to headline score, in the suite's order."""
    domains: Mapping[str, str]
    """Task name to domain, of the tasks in the mean."""
    merge_cost: StageCost | None
    evaluation_cost: StageCost | None
    merge: Mapping[str, Any]
    """The engine's report."""
    error: str | None
    provenance: Mapping[str, Any]
    started_at: str
    """ISO 8601, UTC."""
    seconds_total: float
    metrics: Mapping[str, Mapping[str, TaskMetric]] = field(
        default_factory=dict, metadata={IF_ANY: True}
    )
    """Task, or group of such tasks, to ``metric,filter`` to a metric that is in no mean."""
    evaluator: Mapping[str, Any] = field(default_factory=dict, metadata={IF_ANY: True})
    """Backend of the evaluation, its version, device and options; empty in old records: lm-eval's
    Hugging Face model in one process."""
    origin: Mapping[str, Any] = field(default_factory=dict, metadata={IF_ANY: True})
    """``command`` that repeats the run, as it was typed, and ``merged_dir`` of a kept merge, texts;
    empty in old records."""
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def groups(self) -> Mapping[str, Mapping[str, float]]:
        """The suite's groups; empty without a suite."""
        return {} if self.suite is None else self.suite.groups

    @property
    def reported(self) -> dict[str, tuple[str, TaskMetric]]:
        """Tasks outside the mean to the ``metric,filter`` they are listed with.

        A group that has a metric of its own is listed in place of its tasks.
        """
        tasks = {} if self.suite is None else self.suite.more.get("tasks", {})
        keys = {
            self._listed(task, entries): f"{entries.get('metric')},{entries.get('filter')}"
            for task, entries in tasks.items()
            if entries.get("score") == REPORTED
        }
        metrics = self.metrics
        return {
            t: (key, metrics[t][key]) for t, key in keys.items() if key in metrics.get(t, ())
        }

    def _listed(self, task: str, entries: Mapping[str, Any]) -> str:
        """Name of a task's group if that has a metric, else its own."""
        group = entries.get("group")
        return str(group) if group in self.metrics else task

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or self.status not in _STATUSES:
            raise ValueError(
                f"kind must be one of {_KINDS} and status one of {_STATUSES}, "
                f"got {self.kind!r} and {self.status!r}"
            )
        if (self.status == "done") == (self.error is not None):
            raise ValueError(
                f"a record that is not done, and no other, has an error, got {self.error!r}"
            )
        if not _SAFE_NAME.fullmatch(self.name):
            raise ValueError(f"name must be usable as a folder's name, got {self.name!r:.120}")
        check_provenance(self.provenance)
        check_origin(self.origin)
        if self.suite is not None:
            check_suite_entries(self.suite.more)
        for metric in (m for of_task in self.metrics.values() for m in of_task.values()):
            check_metric(metric.value, metric.stderr)


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Hash what defines a run's numbers.

    Args:
        identity: JSON-ready; kept in a record as ``provenance["identity"]``.

    Returns:
        32 hexadecimal digits.
    """
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def run_folder(root: Path, name: str, fingerprint: str) -> Path:
    """Folder of the run with this name and fingerprint."""
    return root / "runs" / f"{name}-{fingerprint[:12]}"


def write_record(
    root: Path, record: Record, samples: Mapping[str, Iterable[Sample]] | None
) -> Path:
    """Write a run's samples, then its record, each whole or not at all.

    Args:
        root: The results folder.
        record: What to write; replaces an earlier record of the same fingerprint.
        samples: Task name to its samples; None leaves no sample file.

    Returns:
        Path of the record.

    Raises:
        ValueError: If the record or a sample could not be read again: it holds NaN, something
            JSON cannot express, or an entry of another type.
    """
    folder = run_folder(root, record.name, record.fingerprint)
    text = record_json(record)
    packed = None if samples is None else pack_samples(samples)
    folder.mkdir(parents=True, exist_ok=True)
    if packed is None:
        (folder / SAMPLES_NAME).unlink(missing_ok=True)
    else:
        atomic_write(folder / SAMPLES_NAME, packed)
    atomic_write(folder / RECORD_NAME, text.encode())
    return folder / RECORD_NAME


def find_done(root: Path, name: str, fingerprint: str) -> Record | None:
    """Return the finished record of this run, None if it never ran or failed.

    Raises:
        ValueError: If the record is damaged or of another schema; names the file.
    """
    path = run_folder(root, name, fingerprint) / RECORD_NAME
    if not path.exists():
        return None
    record = read_record(path)
    done = record.status == "done" and record.fingerprint == fingerprint
    return record if done else None


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        ValueError: If it is damaged or of another schema; names the file and what to do.
    """
    try:
        return _record_from(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, "is not a readable record", error) from error


def record_json(record: Record) -> str:
    """JSON text of a record; scores are a list, as sorted keys would lose their order.

    Raises:
        ValueError: If the text could not be read again as this record; says what is wrong.
    """
    try:
        text = json.dumps(to_json(record), sort_keys=True, indent=1, allow_nan=False) + "\n"
        _record_from(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"the record of {record.name} cannot be written as JSON: {error}"
        ) from error
    return text


def _record_from(value: Any) -> Record:  # noqa: ANN401 (any JSON)
    """Build a record from parsed JSON."""
    if isinstance(value, dict) and value.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version must be {SCHEMA_VERSION}, got {value.get('schema_version')!r}"
        )
    check_json(value)
    record = build(Record, value)
    if unknown := sorted(record.scores.keys() - record.domains.keys()):
        raise ValueError(f"domains must name the tasks of all scores, they lack {unknown}")
    return record
