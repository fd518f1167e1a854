"""A kept merge of toy models, made as a run makes it."""

from pathlib import Path
from typing import Any

from seme.binding import bind_method
from seme.job import MergeJob, job_from_config
from seme.publishing.kept_folder import kept_folder
from tests.settings import TOP_LEVEL

TIES = {
    "_target_": "baselines.ties.merge", "_partial_": True,
    "density": 0.5, "lam": 1.0, "scope": "model", "trim_ties": "exact",
}  # fmt: skip


def job_of(
    root: Path, models: dict[str, Any], *, method: dict[str, Any] | None = None, **top: Any
) -> tuple[MergeJob, dict[str, Any]]:
    """Return a job and the configuration it was made from."""
    config = {**TOP_LEVEL, "method": method or TIES, "models": models, **top}
    name = config["method"]["_target_"].split(".")[1]
    return job_from_config(config, name, bind_method(config["method"]), root=root), config


def keep(root: Path, models: dict[str, Any], name: str = "kept", **options: Any) -> Path:
    """Merge models into ``root / name``, with manifest and card."""
    job, config = job_of(root, models, **options)
    with kept_folder(root / name, job, config, root=root) as folder:
        job.run(folder, progress=False)
    return root / name
