"""A merge job: a bound method, the models it works on, and what defines its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from seme.checkpoint import Checkpoint, open_checkpoint
from seme.engine import MergeReport, check_method, merge_checkpoints, method_settings
from seme.provenance import code_version
from seme.settings import MergeSettings, settings_from_config

_MODEL_KEYS = {"name", "location", "revision"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A model of a pool, opened: headers read, weights not."""

    name: str
    location: str
    """Folder or hub id, as configured."""
    revision: str | None
    checkpoint: Checkpoint

    def described(self) -> dict[str, Any]:
        """Name, location, revision and content hash, for the record."""
        return {
            "name": self.name,
            "location": self.location,
            "revision": self.revision,
            "content_hash": self.checkpoint.content_hash(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeJob:
    """Everything a merge needs, checked and opened."""

    method_name: str
    method: partial[Tensor]
    settings: MergeSettings
    pool: str
    pivot: NamedModel
    sources: tuple[NamedModel, ...]
    references: tuple[NamedModel, ...]
    """Models to compare with that take no part in the merge."""

    @property
    def models(self) -> tuple[NamedModel, ...]:
        """The pivot, the sources and the references: what a leaderboard shows unmerged."""
        return (self.pivot, *self.sources, *self.references)

    def hyper_parameters(self) -> dict[str, Any]:
        """The method's own, JSON-ready."""
        return method_settings(self.method)

    def described_models(self) -> dict[str, Any]:
        """The pool, the pivot and the sources, for the record."""
        return {
            "pool": self.pool,
            "pivot": self.pivot.described(),
            "sources": [source.described() for source in self.sources],
        }

    def identity(self) -> dict[str, Any]:
        """What defines the numbers of the merged weights, JSON-ready.

        Where the models lie, what they are called, the device and the memory do not.
        """
        return {
            "method": self.method_name,
            "code": code_version(self.method),
            "hyper_parameters": self.hyper_parameters(),
            "pivot": self.pivot.checkpoint.content_hash(),
            "sources": [source.checkpoint.content_hash() for source in self.sources],
            "seed": self.settings.seed,
            "dtype": str(self.settings.dtype),
            "include": self.settings.include,
            "exclude": self.settings.exclude,
        }

    def run(self, destination: Path, *, progress: bool) -> MergeReport:
        """Merge into a new folder; see :func:`seme.engine.merge_checkpoints`."""
        return merge_checkpoints(
            self.method,
            self.pivot.checkpoint,
            [source.checkpoint for source in self.sources],
            destination,
            seed=self.settings.seed,
            device=self.settings.device,
            dtype=self.settings.dtype,
            include=self.settings.include,
            exclude=self.settings.exclude,
            progress=progress,
        )


def job_from_config(
    config: Mapping[str, Any], method_name: str, method: partial[Tensor], *, root: Path
) -> MergeJob:
    """Check a run's configuration and open its models; no weights are read.

    Args:
        config: The resolved top level of the configuration, with ``models``.
        method_name: Stem of the method's configuration file.
        method: The merge function with its hyper-parameters bound.
        root: Folder that relative locations start from, the repository's.

    Raises:
        ValueError: If a value, a hyper-parameter or a model cannot be used; says which.
    """
    settings = settings_from_config(config)
    check_method(method)
    models = config["models"]
    return MergeJob(
        method_name=method_name,
        method=method,
        settings=settings,
        pool=models["name"],
        pivot=_open(models["pivot"], root),
        sources=tuple(_open(source, root) for source in models["sources"]),
        references=tuple(_open(reference, root) for reference in models["references"]),
    )


def _open(model: str | Mapping[str, Any], root: Path) -> NamedModel:
    """Open a model given as a location, or as a mapping of name, location and revision."""
    entry = {"location": model} if isinstance(model, str) else dict(model)
    if "location" not in entry or not entry.keys() <= _MODEL_KEYS:
        raise ValueError(
            f"a model is a folder, a hub id or a mapping of {sorted(_MODEL_KEYS)}, got {model!r}"
        )
    location, revision = entry["location"], entry.get("revision")
    return NamedModel(
        name=entry.get("name") or Path(location).name,
        location=location,
        revision=revision,
        checkpoint=open_checkpoint(location, revision=revision, root=root),
    )
