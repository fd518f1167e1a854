"""Which records have their run in which tracker: a marker beside each, for restarts."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.folders import if_idle
from eval.records import RECORD_NAME, Record
from eval.run_files import atomic_write
from eval.tracking.content import record_content
from eval.tracking.trackers import NONE, TRACKERS, log_run, set_aside


def mirror(
    record: Record, folder: Path, *, tracker: Mapping[str, Any], group: str
) -> str | None:
    """Write the runs of a finished record to its trackers, from the record alone.

    Those that are complete, by the marker ``<tracker>.json`` beside the record, are left.

    Args:
        record: A finished record.
        folder: Its folder, ``runs/<name>-<fingerprint>`` of a results folder.
        tracker: Tracker to its entries, checked; ``none`` logs nothing.
        group: Name of the sweep.

    Returns:
        None, or warnings to print: the record is on disk whatever happens here.
    """
    warnings = [
        _mirror(record, folder, name, entries, group)
        for name, entries in tracker.items()
        if name != NONE
    ]
    return "\n".join(warning for warning in warnings if warning) or None


def _mirror(
    record: Record, folder: Path, name: str, entries: Mapping[str, Any], group: str
) -> str | None:
    """Write the run of one tracker, unless that was done; None, or a warning."""
    root, run_id, marker = folder.parent.parent, run_id_of(record), folder / f"{name}.json"
    complete = {"run": run_id, "complete": True}
    if uri := entries.get("uri"):  # a run in the results folder is none on a server
        complete["uri"] = uri
    if _read(marker) == complete:
        return None
    try:
        _write(marker, complete | {"complete": False})
        content = record_content(record, folder / RECORD_NAME)
        warning = log_run(name, content, root=root, entries=entries, group=group, run_id=run_id)
        if warning is None:
            _write(marker, complete)
    except OSError as error:
        title = TRACKERS[name].TITLE
        return f"not logged to {title}: {error} (the results in {root} are complete)"
    return warning


def run_id_of(record: Record) -> str:
    """Return the id of a record's runs, 32 hexadecimal digits: mirrored twice, it is one run.

    A run that is repeated by force gets another.
    """
    text = f"{record.fingerprint} {record.started_at}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def set_aside_broken(root: Path) -> int:
    """Put the runs that dead processes left half written out of the way, in every tracker.

    Args:
        root: The results folder.

    Returns:
        Number of runs put out of the way.
    """
    n_moved = 0
    for name in TRACKERS:
        for marker in sorted(root.glob(f"runs/*/{name}.json")):
            entries = _read(marker)
            if entries.get("complete") is not False:
                continue
            with if_idle(root, marker.parent.name) as idle:
                n_moved += set_aside(name, root, str(entries.get("run"))) if idle else 0
    return n_moved


def _read(marker: Path) -> dict[str, Any]:
    """Read a marker; empty if there is none, or it is damaged."""
    try:
        entries = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _write(marker: Path, entries: Mapping[str, Any]) -> None:
    atomic_write(marker, f"{json.dumps(dict(entries))}\n".encode())
