"""Write W&B runs, offline by default; a failure of W&B is a warning and loses no result.

Offline runs are in ``<results>/wandb``; ``wandb sync`` uploads them. The wandb process writes
the end of a run's file a moment after ``finish()``, at the latest when this process ends.
"""

import os
import re
import shlex
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.tracking.content import RunContent

_MODES = ("offline", "online")
_KEYS = {"name", "mode", "project", "entity", "tags"}
_FOLDERS = {
    "WANDB_CACHE_DIR": "cache",
    "WANDB_CONFIG_DIR": "config",
    "WANDB_DATA_DIR": "data",
}
"""Variables for folders that wandb otherwise makes in the user's home."""
_NO_TELEMETRY = {"WANDB_ERROR_REPORTING": "false"}
"""Without this wandb calls its server at exit, in offline mode too (wandb 0.31)."""
_INIT_SECONDS, _FINISH_SECONDS = 60.0, 600.0
"""Longest waits for a server, ``mode: online`` only."""
_REFUSED = re.compile(r"[/\\#?%:]")
"""Characters that wandb refuses in the names of projects."""
_LONGEST_TAG = 64
"""Characters; wandb refuses a run with a longer tag."""


def check_tracker(tracker: Mapping[str, Any]) -> None:
    """Check the parsed file of ``conf/tracker``.

    Raises:
        ValueError: If a key is unknown or missing, or the mode is not one of the choices.
    """
    if tracker == {"name": "none"}:
        return
    if tracker.get("name") != "wandb" or tracker.keys() != _KEYS:
        raise ValueError(
            f"a tracker is `name: none` or wandb with keys {sorted(_KEYS)}, got {dict(tracker)}"
        )
    for key in ("project", "entity"):
        if not isinstance(tracker[key], str | None) or _REFUSED.search(tracker[key] or ""):
            raise ValueError(
                f"tracker.{key} must be a text without / \\ # ? % :, or null, got {tracker[key]!r}"
            )
    if not isinstance(tracker["tags"], list) or not all(
        isinstance(tag, str) for tag in tracker["tags"]
    ):
        raise ValueError(f"tracker.tags must be a list of texts, got {tracker['tags']!r}")
    if tracker["mode"] not in _MODES:
        raise ValueError(f"tracker.mode must be one of {_MODES}, got {tracker['mode']!r}")


def log_run(
    content: RunContent,
    *,
    root: Path,
    tracker: Mapping[str, Any],
    group: str,
    run_id: str | None = None,
) -> str | None:
    """Write one W&B run.

    Args:
        content: What the run holds; the files of its artifact are on disk.
        root: The results folder; the run is written to ``wandb`` in it.
        tracker: The parsed file of ``conf/tracker``, checked; ``name: none`` logs nothing.
        group: Name of the sweep.
        run_id: Id of the run; None gives it one of its own.

    Returns:
        None, or a warning to print.
    """
    if tracker["name"] == "none":
        return None
    try:
        with _wandb_environment((root / "wandb").absolute()):
            _write(content, root, tracker, group, run_id or uuid.uuid4().hex)
    except Exception as error:  # anything a foreign service raises; the results are on disk
        return (
            f"not logged to W&B: {type(error).__name__}: {error} "
            f"(the results in {root} are complete)"
        )
    return None


def upload_hint(root: Path) -> str | None:
    """One line with the number of offline runs and the command that uploads them.

    The artifacts are staged under ``wandb/data`` and known by absolute path: upload before the
    results folder is moved.

    Returns:
        None if a results folder has no offline run that is not uploaded.
    """
    folders = root.glob("wandb/offline-run-*")
    n_runs = sum(not any(folder.glob("*.wandb.synced")) for folder in folders)
    if n_runs == 0:
        return None
    runs = f"{n_runs} offline run{'s' if n_runs > 1 else ''}"
    command = f"wandb sync {shlex.quote(str(root))}/wandb/offline-run-*"
    return f"W&B: {runs}; upload with: {command}"


def _write(
    content: RunContent, root: Path, tracker: Mapping[str, Any], group: str, run_id: str
) -> None:
    import wandb  # noqa: PLC0415 (takes a second to load)

    tags = [str(tag)[:_LONGEST_TAG] for tag in (*tracker["tags"], *content.tags)]
    run = wandb.init(
        project=tracker["project"],
        entity=tracker["entity"],
        mode=tracker["mode"],
        id=run_id,  # else WANDB_RUN_ID makes one run of all
        name=content.name,
        group=group,
        job_type=content.job_type,
        tags=list(dict.fromkeys(tags)),
        config=dict(content.config),
        dir=str(root),
        reinit="finish_previous",
        settings=_settings(wandb),
    )
    failed = True
    try:
        run.summary.update(dict(content.summary))
        run.log(
            {
                key: wandb.Table(columns=list(t.columns), data=[list(row) for row in t.rows])
                for key, t in content.tables.items()
            }
            | {key: wandb.Html(html) for key, html in content.figures.items()}
        )
        artifact = wandb.Artifact(content.name, type=content.job_type)
        for file in content.files:
            artifact.add_file(str(file), name=file.relative_to(content.folder).as_posix())
        run.log_artifact(artifact)
        failed = False
    finally:
        run.finish(exit_code=int(failed))


def _settings(wandb: Any) -> Any:  # noqa: ANN401 (wandb is not typed)
    """Quiet, without host, git and system metrics, and with a limit on every wait."""
    return wandb.Settings(
        silent=True,
        console="off",
        symlink=False,
        host="undisclosed",
        disable_git=True,
        disable_job_creation=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,  # the record's provenance has the versions
        init_timeout=_INIT_SECONDS,
        finish_timeout=_FINISH_SECONDS,
        finish_timeout_raises=True,
    )


@contextmanager
def _wandb_environment(folder: Path) -> Iterator[None]:
    """Move wandb's own folders into this one and switch its telemetry off, for the block."""
    values = {name: str(folder / subfolder) for name, subfolder in _FOLDERS.items()}
    values |= _NO_TELEMETRY
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
