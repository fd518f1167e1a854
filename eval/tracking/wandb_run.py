"""Mirror records and leaderboards to Weights & Biases; the files on disk stay the truth."""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2

from eval.records import Record
from eval.tracking.content import (
    Table,
    config_of,
    merge_summary_of,
    summary_of,
    tags_of,
    task_table,
)
from eval.tracking.leaderboard import Exhibit
from eval.tracking.lineage import Artifact, steps_of
from eval.tracking.offline_run import check_written, folders_under, upload, upload_commands

_MODES = ("offline", "online")
_KEYS = {"name", "mode", "project", "entity", "tags"}


def track(
    record: Record, record_path: Path, *, tracker: Mapping[str, Any], group: str, folder: Path
) -> str | None:
    """Log a record, as one W&B run for its merge and one for its evaluation.

    The lineage leads from the models through the merge to the score. The last of the runs has
    what there is to say of the record: config, scores, costs, a table of the tasks. Both are
    written to disk first; ``mode: online`` uploads them from there.

    Args:
        record: What to log; on disk already.
        record_path: Where it is, in ``<results>/runs/<run>``.
        tracker: The parsed file of ``conf/tracker``; ``name: none`` logs nothing.
        group: Name of the sweep.
        folder: Where everything wandb writes goes, in the results folder.

    Returns:
        None, or a warning to show: a failure here never loses a result.

    Raises:
        ValueError: If the tracker's configuration is wrong.
    """
    if tracker.get("name") == "none":
        return None
    check_tracker(tracker)
    root = record_path.absolute().parents[2]
    common = {"group": group, "tags": tags_of(record, tracker["tags"])}
    written: list[Path] = []
    try:
        *before, last = steps_of(record, record_path)
        for step in (*before, last):
            options = {**common, "job_type": step.job, "config": config_of(record)}
            name = f"{record.name}-{record.fingerprint[:12]}"
            with _run(name, tracker, folder / step.job, **options) as run:
                if step is last:
                    run.summary.update(summary_of(record))
                    _log_tables(run, {"tasks": task_table(record)}, root)
                else:
                    run.summary.update(merge_summary_of(record))
                _log_lineage(run, step.used, step.made, root)
            written.append(Path(run.settings.sync_file))
        _finish(written, tracker, root)
    except Exception as error:  # whatever a foreign service throws; the record is safe
        return f"{_failure(error, root)} (the record is safe in {record_path})"
    return None


def track_exhibit(exhibit: Exhibit, root: Path, *, tracker: Mapping[str, Any]) -> str | None:
    """Log the leaderboards of a results folder as one W&B run.

    Args:
        exhibit: The tables, the figures, the ranking and the files to log.
        root: The results folder; everything wandb writes goes to ``wandb`` in it.
        tracker: The parsed file of ``conf/tracker``, not ``none``.

    Returns:
        None, or what went wrong; the leaderboards on disk are as they were.

    Raises:
        ValueError: If the tracker's configuration is wrong.
    """
    check_tracker(tracker)
    root, made = root.absolute(), exhibit.artifact
    options = {"group": made.kind, "job_type": made.kind, "tags": list(tracker["tags"])}
    try:
        config = dict(exhibit.config)
        with _run(made.name, tracker, root / "wandb", config=config, **options) as run:
            run.summary.update({"ranking": exhibit.ranking})
            _log_tables(run, exhibit.tables, root)
            run.log({key: wandb.Html(html) for key, html in exhibit.figures.items()})
            _log_lineage(run, exhibit.used, made, root)
        _finish([Path(run.settings.sync_file)], tracker, root)
    except Exception as error:  # whatever a foreign service throws; the files are safe
        return f"{_failure(error, root)} (records and leaderboards are safe in {root})"
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


@contextmanager
def _run(
    name: str,
    tracker: Mapping[str, Any],
    folder: Path,
    **options: Any,  # noqa: ANN401 (of wandb.init)
) -> Iterator[Any]:
    """A W&B run on disk, written by the block; marked as failed if the block fails."""
    with folders_under(folder):
        run = wandb.init(
            project=tracker["project"],
            entity=tracker["entity"],
            mode="offline",
            id=uuid.uuid4().hex,  # WANDB_RUN_ID would make one run of all
            name=name,
            dir=str(folder),
            reinit="finish_previous",
            settings=_settings(),
            **options,
        )
        failed = True
        try:
            yield run
            failed = False
        finally:
            run.finish(exit_code=int(failed))


def _finish(written: Sequence[Path], tracker: Mapping[str, Any], root: Path) -> None:
    """See that all runs are on disk; only then upload them, one after the other."""
    for path in written:
        check_written(path, _ends_a_run)
    for path in written if tracker["mode"] == "online" else ():
        upload(path, root)


def _ends_a_run(record: bytes) -> bool:
    """Tell the record that wandb writes when a run has ended, in the bytes of its file."""
    found = wandb_internal_pb2.Record.FromString(record).WhichOneof("record_type")
    return bool(found == "exit")


def _settings() -> wandb.Settings:
    """Quiet, and without the host, the account, the command line and its paths."""
    return wandb.Settings(
        silent=True,
        console="off",
        symlink=False,
        host="undisclosed",
        disable_git=True,
        disable_job_creation=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,  # the record's provenance names the versions
    )


def _log_tables(run: Any, tables: Mapping[str, Table], root: Path) -> None:  # noqa: ANN401
    """Log tables by way of an artifact of our own: wandb's would name the machine's folders."""
    shown = {
        key: wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
        for key, table in tables.items()
    }
    packed = wandb.Artifact(f"tables-{run.name}", type="tables")
    for key, table in shown.items():
        packed.add(table, key)
    run.log_artifact(_relative(packed, root))
    for key, table in shown.items():
        table.bind_to_run(run, key, 0)
    run.log(shown)


def _log_lineage(
    run: Any,  # noqa: ANN401 (wandb is not typed)
    used: Sequence[Artifact],
    made: Artifact,
    root: Path,
) -> None:
    """Tell the run what it used and what it made.

    ``run.use_artifact`` refuses to work offline, although the file it would write to can say
    that an artifact was used; what it calls for a new artifact writes just that.
    """
    for artifact in used:
        packed = _packed(artifact, root)
        run._log_artifact(packed, is_user_created=True, use_after_commit=True)
    run.log_artifact(_packed(made, root))


def _packed(artifact: Artifact, root: Path) -> wandb.Artifact:
    packed = wandb.Artifact(artifact.name, type=artifact.kind, metadata=dict(artifact.metadata))
    for name, content in artifact.files.items():
        if isinstance(content, Path):
            packed.add_file(str(content), name=name)
        else:
            with packed.new_file(name, mode="wb") as file:
                file.write(content)
    return _relative(packed, root)


def _relative(packed: wandb.Artifact, root: Path) -> wandb.Artifact:
    """Name the staged copies from the results folder: wandb uploads their paths as well.

    What they were copied from is not needed any more, and wandb would leave it to the collector.
    """
    for entry in packed.manifest.entries.values():
        entry.local_path = os.path.relpath(entry.local_path, root)
    if packed._tmp_dir is not None:
        packed._tmp_dir.cleanup()
    return packed


def _failure(error: Exception, root: Path) -> str:
    commands = " && ".join(upload_commands(root))
    return (
        f"not tracked in W&B: {type(error).__name__}: {error}; what was written can be uploaded "
        f"with `{commands}`, and `python -m scripts.track` logs all scores again"
    )
