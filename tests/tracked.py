"""Records logged to a tracker, and the readers of MLflow and TensorBoard."""

from pathlib import Path

from eval.tracking.content import record_content
from eval.tracking.mirror import run_id_of
from eval.tracking.trackers import log_run
from tests.offline_runs import make_record, write

__all__ = ["log", "make_record"]


def log(name, root, record, entries):
    """Write a record, log it to a tracker, and return the warning."""
    content = record_content(record, write(root, record))
    run_id = run_id_of(record)
    return log_run(name, content, root=root, entries=entries, group="sweep-7", run_id=run_id)


def runs_of_tensorboard(root):
    """Every run of a results folder, loaded by TensorBoard's own reader, by name."""
    from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415
        EventAccumulator,
    )

    folders = sorted((Path(root) / "tensorboard").iterdir())
    return {folder.name: EventAccumulator(str(folder)).Reload() for folder in folders}


def texts_of_tensorboard(root):
    """Texts by key, of every run by name."""
    return {
        name: {
            tag.removesuffix("/text_summary"): run.Tensors(tag)[0]
            .tensor_proto.string_val[0]
            .decode()
            for tag in run.Tags()["tensors"]
            if tag.endswith("/text_summary")
        }
        for name, run in runs_of_tensorboard(root).items()
    }


def reader_of_mlflow(root):
    from mlflow import MlflowClient  # noqa: PLC0415

    uri = f"sqlite:///{Path(root).absolute()}/mlflow/mlflow.db"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def runs_of_mlflow(root):
    """Every run of a results folder that is not deleted."""
    client = reader_of_mlflow(root)
    return client.search_runs([e.experiment_id for e in client.search_experiments()])
