"""Write W&B runs, offline by default.

Offline runs are in ``<results>/wandb``; ``wandb sync`` uploads them. The wandb process writes
the end of a run's file a moment after ``finish()``, at the latest when this process ends.
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.tracking.content import RunContent
from eval.tracking.entries import check_keys, check_tags
from eval.tracking.environment import variables

NAME, TITLE = "wandb", "W&B"
PACKAGES: tuple[str, ...] = ("wandb",)
BROKEN = "broken"
"""Folder beside the offline runs for those whose process died; the upload command leaves it out."""
_MODES = ("offline", "online")
_KEYS = {"mode", "project", "entity", "tags"}
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


def check_entries(entries: object) -> None:
    """Check ``tracker.wandb``.

    Raises:
        ValueError: If a key is unknown or missing, or the mode is not one of the choices.
    """
    wandb = check_keys(NAME, entries, _KEYS)
    for key in ("project", "entity"):
        if not isinstance(wandb[key], str | None) or _REFUSED.search(wandb[key] or ""):
            raise ValueError(
                f"tracker.wandb.{key} must be a text without / \\ # ? % :, or null, "
                f"got {wandb[key]!r}"
            )
    check_tags(NAME, wandb["tags"])
    if wandb["mode"] not in _MODES:
        raise ValueError(
            f"tracker.wandb.mode must be one of {_MODES}, got {wandb['mode']!r:.100}"
        )


def write_run(
    content: RunContent, *, root: Path, entries: Mapping[str, Any], group: str, run_id: str
) -> None:
    """Write one W&B run to ``wandb`` in the results folder, or upload it.

    What there is of a run of this id is set aside first.

    Args:
        content: What the run holds; the files of its artifact are on disk.
        root: The results folder.
        entries: ``tracker.wandb``, checked.
        group: Name of the sweep.
        run_id: Id of the run.
    """
    set_aside(root, run_id)
    folder = (root / "wandb").absolute()
    own = {name: str(folder / subfolder) for name, subfolder in _FOLDERS.items()}
    with variables(own | _NO_TELEMETRY):
        _write(content, root, entries, group, run_id)


def set_aside(root: Path, run_id: str) -> int:
    """Move what there is of a run to ``wandb/broken``; return the number of folders."""
    folders = [f for f in root.glob("wandb/*run-*") if f.name.endswith(f"-{run_id}")]
    for folder in folders:
        target = root / "wandb" / BROKEN / folder.name
        target.parent.mkdir(exist_ok=True)
        while target.exists():
            target = target.with_name(f"{target.name}-again")
        folder.rename(target)
    return len(folders)


def hint(root: Path) -> str | None:
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
    content: RunContent, root: Path, entries: Mapping[str, Any], group: str, run_id: str
) -> None:
    import wandb  # noqa: PLC0415 (takes a second to load)

    tags = [str(tag)[:_LONGEST_TAG] for tag in (*entries["tags"], *content.tags)]
    run = wandb.init(
        project=entries["project"],
        entity=entries["entity"],
        mode=entries["mode"],
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
