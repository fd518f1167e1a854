"""Launchers of a sweep: what each needs, checked before anything starts."""

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from eval.gpus import visible_gpus

_EXTRAS = {
    "hydra_joblib_launcher": ("joblib", "pip install -e '.[joblib]' -c constraints.txt"),
    "hydra_submitit_launcher": ("submitit", "pip install -e '.[submitit]' -c constraints.txt"),
    "hydra_ray_launcher": (
        "ray",
        "pip install -e '.[ray]' in an environment without constraints.txt",
    ),
}
"""Package of a launcher to the extra that adds it, and the command."""


def is_alone(launcher: Mapping[str, Any]) -> bool:
    """Return True for the launcher that runs all cells in the launching process."""
    return _class_of(launcher) in ("", "BasicLauncher")


def gives_no_gpus(launcher: Mapping[str, Any]) -> bool:
    """Return True for a launcher that starts workers here and leaves the GPUs to them."""
    return _class_of(launcher) in ("JoblibLauncher", "LocalLauncher")


def check_launcher(name: str, launcher: Mapping[str, Any], *, device: object) -> None:
    """Check that a launcher is installed, and that each of its workers can have a GPU.

    Args:
        name: Choice of ``hydra/launcher``.
        launcher: Its configuration, ``hydra.launcher``.
        device: Of the run's configuration: cpu, cuda or auto.

    Raises:
        ValueError: If something is missing; says what to install or to change.
    """
    package = str(launcher.get("_target_")).split(".")[1:2]
    for known in _EXTRAS.keys() & set(package):
        _, command = _EXTRAS[known]
        try:
            distribution(known.replace("_", "-"))
        except PackageNotFoundError as error:
            missing = f"hydra/launcher={name} is not installed; in the repository: {command}"
            raise ValueError(missing) from error
    if _class_of(launcher) == "JoblibLauncher" and device != "cpu":
        n_gpus, n_jobs = len(visible_gpus()), int(launcher["n_jobs"])
        n_workers = n_jobs if n_jobs > 0 else (os.cpu_count() or 1) + 1 + n_jobs
        if 0 < n_gpus < n_workers:
            raise ValueError(
                f"hydra.launcher.n_jobs={n_jobs} starts {n_workers} workers for {n_gpus} GPU{'s' * (n_gpus > 1)}, "
                f"and each has one of its own: hydra.launcher.n_jobs={n_gpus}, or device=cpu"
            )


def _class_of(launcher: Mapping[str, Any]) -> str:
    return str(launcher.get("_target_") or "").rpartition(".")[2]
