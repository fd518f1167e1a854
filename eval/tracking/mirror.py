"""Which records have their W&B run: a marker beside each, so that a restart mirrors the rest."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.folders import if_idle
from eval.records import RECORD_NAME, Record, atomic_write
from eval.tracking.content import record_content
from eval.tracking.wandb_run import log_run

MARKER = "wandb.json"
"""Name of the marker: id of the W&B run, and whether it is complete."""
BROKEN = "broken"
"""Folder beside the offline runs for those whose process died; the upload command leaves it out."""


def mirror(
    record: Record, folder: Path, *, tracker: Mapping[str, Any], group: str
) -> str | None:
    """Write the W&B run of a finished run from its record, unless that was done.

    Args:
        record: A finished record.
        folder: Its folder, ``runs/<name>-<fingerprint>`` of a results folder.
        tracker: The parsed file of ``conf/tracker``, checked; ``name: none`` logs nothing.
        group: Name of the sweep.

    Returns:
        None, or a warning to print: the record is on disk whatever happens here.
    """
    if tracker["name"] == "none":
        return None
    root, run_id = folder.parent.parent, run_id_of(record)
    complete = {"run": run_id, "complete": True}
    if _read(folder) == complete:
        return None
    try:
        set_aside(root, run_id)
        _write(folder, {"run": run_id, "complete": False})
        content = record_content(record, folder / RECORD_NAME)
        warning = log_run(content, root=root, tracker=tracker, group=group, run_id=run_id)
        if warning is None:
            _write(folder, complete)
    except OSError as error:
        return f"not logged to W&B: {error} (the results in {root} are complete)"
    return warning


def run_id_of(record: Record) -> str:
    """Return the id of a record's W&B run, 32 hexadecimal digits: mirrored twice, it is one run.

    A run that is repeated by force gets another.
    """
    text = f"{record.fingerprint} {record.started_at}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def set_aside_broken(root: Path) -> int:
    """Move the runs that dead processes left half written out of the way of the upload.

    Args:
        root: The results folder.

    Returns:
        Number of runs moved to ``wandb/broken``.
    """
    n_moved = 0
    for marker in sorted(root.glob(f"runs/*/{MARKER}")):
        entries = _read(marker.parent)
        if entries.get("complete") is not False:
            continue
        with if_idle(root, marker.parent.name) as idle:
            n_moved += set_aside(root, str(entries.get("run"))) if idle else 0
    return n_moved


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


def _read(folder: Path) -> dict[str, Any]:
    """Read a marker; empty if there is none, or it is damaged."""
    try:
        entries = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _write(folder: Path, entries: Mapping[str, Any]) -> None:
    atomic_write(folder / MARKER, f"{json.dumps(dict(entries))}\n".encode())
