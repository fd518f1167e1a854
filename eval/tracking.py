"""Mirror a record to Weights & Biases; the record on disk stays the truth."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import wandb

from eval.results import Record
from eval.statistics.stats import overall_mean

_FOLDERS = {
    "WANDB_DIR": "",
    "WANDB_CACHE_DIR": "cache",
    "WANDB_DATA_DIR": "data",
    "WANDB_CONFIG_DIR": "config",
    "WANDB_ARTIFACT_DIR": "artifacts",
}
_LONGEST_TAG = 64
_WRITING_SECONDS = 5.0
_MODES = ("offline", "online")
_KEYS = {"name", "mode", "project", "entity", "tags"}


def track(
    record: Record, record_path: Path, *, tracker: Mapping[str, Any], group: str, folder: Path
) -> str | None:
    """Log a record: config, scores, cost, a table of the tasks, the record as an artifact.

    Args:
        record: What to log; on disk already.
        record_path: Where it is.
        tracker: The parsed file of ``conf/tracker``; ``name: none`` logs nothing.
        group: Name of the sweep.
        folder: Where everything wandb writes goes.

    Returns:
        None, or a warning to show: a failure here never loses a result.

    Raises:
        ValueError: If the tracker's configuration is wrong.
    """
    if tracker.get("name") == "none":
        return None
    check_tracker(tracker)
    try:
        with _folders_under(folder):
            _log(record, record_path, tracker, group, folder)
    except Exception as error:  # whatever a foreign service throws; the record is safe
        return (
            f"not tracked in W&B: {type(error).__name__}: {error} "
            f"(the record is safe in {record_path})"
        )
    return None


def check_tracker(tracker: Mapping[str, Any]) -> None:
    """Check a tracker's configuration before any work is done.

    Args:
        tracker: The parsed file of ``conf/tracker``, not ``none``.

    Raises:
        ValueError: If a key is unknown or missing, or the mode is not one of the choices.
    """
    if tracker.get("name") != "wandb" or tracker.keys() != _KEYS:
        raise ValueError(
            f"a tracker is `name: none` or wandb with keys {sorted(_KEYS)}, got {dict(tracker)}"
        )
    if tracker["mode"] not in _MODES:
        raise ValueError(f"tracker.mode must be one of {_MODES}, got {tracker['mode']!r}")


def _log(
    record: Record, record_path: Path, tracker: Mapping[str, Any], group: str, folder: Path
) -> None:
    run = wandb.init(
        project=tracker["project"],
        entity=tracker["entity"],
        mode=tracker["mode"],
        name=f"{record.name}-{record.fingerprint[:12]}",
        group=group,
        job_type=record.kind,
        tags=_tags(record, tracker["tags"]),
        config=_config(record),
        dir=str(folder),
        reinit="finish_previous",
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_job_creation=True,
            x_disable_stats=True,
            x_save_requirements=False,  # the record's provenance names the versions
        ),
    )
    failed = True
    try:
        run.summary.update(_summary(record))
        run.log({"tasks": _task_table(record)})
        artifact = wandb.Artifact(f"record-{record.fingerprint[:12]}", type="record")
        artifact.add_file(str(record_path))
        run.log_artifact(artifact)
        failed = record.status == "failed"
    finally:
        run.finish(exit_code=int(failed))
    if tracker["mode"] == "offline":
        _check_written(Path(run.settings.sync_file))


def _check_written(path: Path) -> None:
    """Wandb swallows its own errors: look at the file, which it may write a little later."""
    deadline = time.monotonic() + _WRITING_SECONDS
    while not (path.is_file() and path.stat().st_size > 0):
        if time.monotonic() > deadline:
            raise FileNotFoundError(
                f"the offline run should be in {path}, it is absent or empty"
            )
        time.sleep(0.02)


def _config(record: Record) -> dict[str, Any]:
    return {
        "kind": record.kind,
        "method": record.name,
        "settings": dict(record.settings),
        "models": dict(record.models),
        "suite": None if record.suite is None else dict(record.suite),
        "seed": record.seed,
        "dtype": record.dtype,
        "fingerprint": record.fingerprint,
        "provenance": dict(record.provenance),
    }


def _summary(record: Record) -> dict[str, Any]:
    """Scores and cost, flat: ``score/<task>``, ``merge/seconds`` and so on."""
    summary: dict[str, Any] = {"status": record.status, "error": record.error}
    summary |= {f"score/{task}": score.value for task, score in record.scores.items()}
    if record.scores:
        mean = overall_mean(record.scores, record.domains)
        summary |= {"score/mean": mean.value, "score/mean_stderr": mean.stderr}
    costs = {"merge": record.merge_cost, "evaluation": record.evaluation_cost}
    for stage, cost in costs.items():
        if cost is not None:
            summary |= {f"{stage}/{key}": value for key, value in asdict(cost).items()}
    return summary


def _task_table(record: Record) -> wandb.Table:
    rows = [
        [task, record.domains[task], s.value, s.stderr, s.n, s.raw_metric, s.raw]
        for task, s in record.scores.items()
    ]
    columns = ["task", "domain", "score", "stderr", "n", "raw_metric", "raw"]
    return wandb.Table(columns=columns, data=rows)


def _tags(record: Record, configured: list[str]) -> list[str]:
    """Tags of at most 64 characters, as wandb demands; none twice."""
    suite = "none" if record.suite is None else record.suite["name"]
    found = [*configured, record.name, record.models["pool"], suite, record.status]
    return list(dict.fromkeys(str(tag)[:_LONGEST_TAG] for tag in found))


@contextmanager
def _folders_under(folder: Path) -> Iterator[None]:
    """Point every folder wandb writes to under this one, for the block."""
    before = {name: os.environ.get(name) for name in _FOLDERS}
    for name, below in _FOLDERS.items():
        (folder / below).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder / below)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
