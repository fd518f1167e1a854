"""Write MLflow runs: to a database in the results folder, or to a server.

The database is ``<results>/mlflow/mlflow.db``, its artifacts are beside it. Entries of a run that
MLflow's names or limits cut are whole in the run's ``config.json`` and ``summary.json``.
"""

import posixpath
import re
import shlex
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from eval.tracking.content import RunContent
from eval.tracking.entries import check_keys, check_one_line, check_tags
from eval.tracking.environment import variables

NAME, TITLE = "mlflow", "MLflow"
PACKAGES: tuple[str, ...] = ("mlflow", "sqlalchemy", "alembic")
RUN_TAG = "seme.run"
"""Tag with the id of a record's run: MLflow chooses its own ids."""
_KEYS = {"uri", "experiment", "tags"}
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # else it calls its server, and writes to the user's home
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_REFUSED = re.compile(r"[^\w\-. /:]")
"""Characters that MLflow refuses in the names of parameters, metrics and tags."""
_LONGEST_NAME, _LONGEST_VALUE = 250, 5000
_LARGEST_BATCH = 100


def check_entries(entries: object) -> None:
    """Check ``tracker.mlflow``.

    Raises:
        ValueError: If a key is unknown or missing, or the URI is no server's.
    """
    mlflow = check_keys(NAME, entries, _KEYS)
    check_one_line("tracker.mlflow.experiment", mlflow["experiment"])
    check_tags(NAME, mlflow["tags"])
    if (uri := mlflow["uri"]) is None:
        return
    if not isinstance(uri, str) or not re.match(r"https?://[^/]", uri):
        raise ValueError(
            "tracker.mlflow.uri must be http://... or https://... of a server, or null for a "
            f"database in the results folder, got {uri!r:.300}"
        )
    if urlsplit(uri).username is not None:
        raise ValueError(
            "tracker.mlflow.uri must not hold a user or a password, which records would keep: "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )


def write_run(
    content: RunContent, *, root: Path, entries: Mapping[str, Any], group: str, run_id: str
) -> None:
    """Write one MLflow run; an earlier one of this id is deleted first.

    Args:
        content: What the run holds; the files of its artifacts are on disk.
        root: The results folder.
        entries: ``tracker.mlflow``, checked.
        group: Name of the sweep.
        run_id: Id of the run, kept as a tag.
    """
    with _client(root, entries["uri"]) as client:
        place = None if entries["uri"] else (root / "mlflow/artifacts").absolute().as_uri()
        _delete(client, run_id)
        experiment = client.get_experiment_by_name(entries["experiment"])
        run = client.create_run(
            experiment.experiment_id
            if experiment
            else client.create_experiment(entries["experiment"], artifact_location=place),
            run_name=content.name,
            tags=_tags(content, entries["tags"], group, run_id),
        )
        status = "FAILED"
        try:
            _log(client, run.info.run_id, content)
            status = "FINISHED"
        finally:
            client.set_terminated(run.info.run_id, status)


def set_aside(root: Path, run_id: str) -> int:
    """Delete what there is of a run in the results folder's database; return the number of runs.

    ``mlflow gc`` removes deleted runs for good; until then they can be restored.
    """
    if not _database(root).exists():
        return 0
    with _client(root, None) as client:
        return _delete(client, run_id)


def hint(root: Path) -> str | None:
    """One line with the command that shows the runs; None if there is no database."""
    if not _database(root).exists():
        return None
    uri = shlex.quote(f"sqlite:///{root}/mlflow/mlflow.db")
    return (
        f"MLflow: look at the runs with the package mlflow: mlflow ui --backend-store-uri {uri}"
    )


@contextmanager
def _client(root: Path, uri: str | None) -> Iterator[Any]:
    """Open a store, for one process at a time: a database has one writer, and is made once."""
    folder = _database(root).parent
    folder.mkdir(parents=True, exist_ok=True)
    with (
        variables(_ENVIRONMENT),
        FileLock(folder / "mlflow.lock"),
        warnings.catch_warnings(action="ignore"),  # of its own calls of pandas and SQLAlchemy
    ):
        from mlflow import MlflowClient  # noqa: PLC0415 (takes seconds to load, and is an extra)

        where = uri or _local_uri(root)
        yield MlflowClient(tracking_uri=where, registry_uri=where)


def _database(root: Path) -> Path:
    return root.absolute() / "mlflow/mlflow.db"


def _local_uri(root: Path) -> str:
    return f"sqlite:///{_database(root)}"


def _delete(client: Any, run_id: str) -> int:  # noqa: ANN401 (loaded late)
    """Delete the runs of this id, in whatever experiment; return their number."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, filter_string=f"tags.`{RUN_TAG}` = '{run_id}'")
    for run in runs:
        client.delete_run(run.info.run_id)
    return len(runs)


def _tags(content: RunContent, own: Sequence[str], group: str, run_id: str) -> dict[str, str]:
    """Tags of a run: what it is, and the texts of its summary."""
    words = ", ".join(dict.fromkeys([*own, *content.tags]))
    tags = {"seme.kind": content.job_type, "seme.group": group, "seme.tags": words}
    texts = {_name(key): value for key, value in content.texts().items()}
    return {k: v[:_LONGEST_VALUE] for k, v in (texts | tags | {RUN_TAG: run_id}).items()}


def _log(client: Any, run: str, content: RunContent) -> None:  # noqa: ANN401 (loaded late)
    """Log parameters, metrics, tables and files; figures are among the files."""
    from mlflow.entities import Metric, Param  # noqa: PLC0415 (loaded by now)

    now = int(time.time() * 1000)
    params = {_name(k): str(v)[:_LONGEST_VALUE] for k, v in content.flat_config().items()}
    metrics = {_name(key): value for key, value in content.numbers().items()}
    entries = [Param(key, value) for key, value in params.items()]
    for start in range(0, len(entries), _LARGEST_BATCH):
        client.log_batch(run, params=entries[start : start + _LARGEST_BATCH])
    points = [Metric(key, value, now, 0) for key, value in metrics.items()]
    for start in range(0, len(points), _LARGEST_BATCH):
        client.log_batch(run, metrics=points[start : start + _LARGEST_BATCH])
    client.log_dict(run, dict(content.config), "config.json")
    client.log_dict(run, dict(content.summary), "summary.json")
    for key, table in content.tables.items():
        columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
        data = dict(zip(table.columns, map(list, columns), strict=True))
        client.log_table(run, data, f"{_name(key)}.table.json")
    for file in content.files:
        place = file.relative_to(content.folder).parent.as_posix()
        client.log_artifact(run, str(file), None if place == "." else place)


def _name(key: str) -> str:
    """Return a name as MLflow takes it: ``metric/arc/acc,none`` is ``metric/arc/acc_none``."""
    name = posixpath.normpath(_REFUSED.sub("_", key)).lstrip("./")
    return name[:_LONGEST_NAME] or "_"
