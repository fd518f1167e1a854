"""A merge job: a bound method, the models it works on, and what defines its numbers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from seme.binding import check_method, method_settings
from seme.checkpoint.content import content_hashes
from seme.checkpoint.lora import AdaptedCheckpoint, AnyCheckpoint, open_adapter
from seme.checkpoint.reader import Checkpoint, open_checkpoint
from seme.engine import MergeReport, merge_checkpoints
from seme.interface import Site
from seme.provenance import NUMBERS_VERSION, code_version
from seme.settings import MergeSettings, settings_from_config

if TYPE_CHECKING:
    from seme.plan import Plan

_POOL_KEYS = {"name", "pivot", "sources", "references"}
_MODEL_KEYS = {"name", "location", "revision", "path_to_adapter", "adapter_revision"}
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Opener(Protocol):
    """Opens a checkpoint; see :func:`seme.checkpoint.reader.open_checkpoint`."""

    def __call__(
        self, location: str | Path, *, revision: str | None = None, root: Path
    ) -> Checkpoint: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A model of a pool, opened: headers read, weights not."""

    name: str
    location: str
    """Folder, relative to the repository or to ``~`` if it is in one of them, or hub id; the
    adapter's where there is one."""
    revision: str | None
    """Of that location, as configured."""
    checkpoint: AnyCheckpoint

    def described(self) -> dict[str, Any]:
        """Name, location, revision, commit on the Hub and content hash, for the record."""
        return {
            "name": self.name,
            "location": self.location,
            "revision": self.revision,
            "commit": self.checkpoint.commit,
            "base_commit": self.checkpoint.base.commit
            if isinstance(self.checkpoint, AdaptedCheckpoint)
            else None,
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
    """Never an adapter."""
    sources: tuple[NamedModel, ...]
    references: tuple[NamedModel, ...]
    """Models to compare with that take no part in the merge."""

    @property
    def base(self) -> Checkpoint:
        """The pivot's checkpoint."""
        assert isinstance(self.pivot.checkpoint, Checkpoint), "job_from_config refuses others"
        return self.pivot.checkpoint

    @property
    def models(self) -> tuple[NamedModel, ...]:
        """The pivot, the sources and the references: what a leaderboard shows unmerged."""
        return (self.pivot, *self.sources, *self.references)

    def hyper_parameters(self) -> dict[str, Any]:
        """The method's own, JSON-ready."""
        return method_settings(self.method)

    def described_models(self) -> dict[str, Any]:
        """The pool, the pivot, the sources and the references, for the record."""
        return {
            "pool": self.pool,
            "pivot": self.pivot.described(),
            "sources": [source.described() for source in self.sources],
            "references": [reference.described() for reference in self.references],
        }

    def identity(self) -> dict[str, Any]:
        """What defines the numbers of the merged weights, JSON-ready.

        Where the models lie, what they are called, the device and the memory do not.
        """
        pivot, *others = content_hashes([model.checkpoint for model in self.models])
        return {
            "method": self.method_name,
            "code": code_version(self.method),
            "numbers": NUMBERS_VERSION,
            "hyper_parameters": self.hyper_parameters(),
            "pivot": pivot,
            "sources": others[: len(self.sources)],
            "seed": self.settings.seed,
            "dtype": str(self.settings.dtype),
            "include": self.settings.include,
            "exclude": self.settings.exclude,
        }

    def identity_of(self, model: NamedModel) -> dict[str, Any]:
        """What defines the numbers of a model that is not merged, JSON-ready."""
        content = {"reference": model.checkpoint.content_hash()}
        if isinstance(model.checkpoint, AdaptedCheckpoint):
            return {**content, "dtype": str(self.settings.dtype)}  # see folder_of
        return content

    def run(self, destination: Path, *, progress: bool) -> MergeReport:
        """Merge into a new folder; see :func:`seme.engine.merge_checkpoints`."""
        return merge_checkpoints(
            self.method,
            self.base,
            [source.checkpoint for source in self.sources],
            destination,
            settings=self.settings,
            progress=progress,
        )

    def folder_of(self, model: NamedModel, scratch: Path) -> Path:
        """Return a folder that holds a model of this job whole, as others load it.

        Args:
            model: One of :attr:`models`.
            scratch: A new folder, made for an adapter only: there it is written with its base, in
                the dtype of the merges.
        """
        found = model.checkpoint
        if not isinstance(found, AdaptedCheckpoint):
            return found.path
        settings = replace(self.settings, include=(), exclude=())
        merge_checkpoints(
            partial(_the_source),
            found.base,
            [found],
            scratch,
            settings=settings,
            progress=False,
        )
        return scratch

    def plan(self, destination: Path) -> "Plan":
        """Say what :meth:`run` would do; see :func:`seme.plan.plan_merge`."""
        from seme.plan import plan_merge  # noqa: PLC0415 (loads all of SeMe's alignment)

        return plan_merge(
            self.method,
            self.base,
            [source.checkpoint for source in self.sources],
            destination,
            settings=self.settings,
        )


def _the_source(_pivot: Tensor, sources: Sequence[Tensor], _site: Site, /) -> Tensor:
    """Merge nothing: what is written is the only source."""
    return sources[0]


def job_from_config(
    config: Mapping[str, Any],
    method_name: str,
    method: partial[Tensor],
    *,
    root: Path,
    opener: Opener = open_checkpoint,
) -> MergeJob:
    """Check a run's configuration and open its models; no weights are read.

    Args:
        config: The resolved top level of the configuration, with ``models``.
        method_name: Stem of the method's configuration file.
        method: The merge function with its hyper-parameters bound.
        root: Folder that relative locations start from, the repository's.
        opener: Opens the checkpoints; :func:`seme.checkpoint.outline.open_outline` where weights may be
            absent.

    Raises:
        ValueError: If a value, a hyper-parameter or a model cannot be used; says which.
    """
    settings = settings_from_config(config)
    check_method(method)
    models = config["models"]
    if models.keys() != _POOL_KEYS:
        raise ValueError(f"a pool of models has {sorted(_POOL_KEYS)}, got {sorted(models)}")
    pivot = _open(models["pivot"], root, opener)
    if isinstance(pivot.checkpoint, AdaptedCheckpoint):
        raise ValueError(
            "the pivot must be a checkpoint of its own, got an adapter: merge the adapter into "
            "its base first (a merge with the base as pivot, the adapter as only source and "
            "method=average does it), or use it as a source"
        )
    sources = _open_all("models.sources", models["sources"], root, opener)
    if not sources:
        raise ValueError("models.sources must name at least one model, got none")
    return MergeJob(
        method_name=method_name,
        method=method,
        settings=settings,
        pool=models["name"] or _pool_name(pivot, sources),
        pivot=pivot,
        sources=sources,
        references=_open_all("models.references", models["references"], root, opener),
    )


def _pool_name(pivot: NamedModel, sources: tuple[NamedModel, ...]) -> str:
    """Name a pool that has no name after its models."""
    return f"custom: {pivot.name} + {', '.join(source.name for source in sources)}"


def _open_all(key: str, models: object, root: Path, opener: Opener) -> tuple[NamedModel, ...]:
    if not isinstance(models, list | tuple):
        raise ValueError(f"{key} must be a list such as [A,B], got {models!r}")
    return tuple(_open(model, root, opener) for model in models)


def _open(model: str | Mapping[str, Any], root: Path, opener: Opener) -> NamedModel:
    """Open a model given as a location, or as a mapping of its entries."""
    entry = {"location": model} if isinstance(model, str) else model
    if (
        not isinstance(entry, Mapping)
        or not entry.keys() <= _MODEL_KEYS
        or not _is_placed(entry)
    ):
        raise ValueError(
            f"a model is a folder, a hub id or a mapping of {sorted(_MODEL_KEYS)}, got {model!r}"
        )
    is_adapter = entry.get("path_to_adapter") is not None
    location = entry["path_to_adapter" if is_adapter else "location"]
    name = entry.get("name") or re.sub(r"[^A-Za-z0-9._-]+", "-", Path(location).name)
    if not _SAFE_NAME.fullmatch(name):
        raise ValueError(
            f"a model's name holds letters, digits, '.', '_' and '-', and starts with one of the "
            f"first two; got {name!r}: give {{name: ..., location: {location}}}"
        )
    return NamedModel(
        name=name,
        location=_portable(location, root),
        revision=entry.get("adapter_revision" if is_adapter else "revision"),
        checkpoint=_open_adapted(entry, root)
        if is_adapter
        else _open_whole(entry, root, opener),
    )


def _portable(location: str, root: Path) -> str:
    """Shorten an absolute path to one from ``root`` or from ``~``: records name no account."""
    for folder, prefix in ((root, Path()), (Path.home(), Path("~"))):
        if Path(location).is_relative_to(folder):
            return (prefix / Path(location).relative_to(folder)).as_posix()
    return location


def _is_placed(entry: Mapping[str, Any]) -> bool:
    """Whether an entry says where the model is, in strings."""
    places = [
        entry[key] for key in ("location", "path_to_adapter") if entry.get(key) is not None
    ]
    return len(places) > 0 and all(isinstance(place, str) for place in places)


def _open_whole(entry: Mapping[str, Any], root: Path, opener: Opener) -> Checkpoint:
    if entry.get("adapter_revision") is not None:
        raise ValueError(
            f"adapter_revision goes with path_to_adapter, got {entry}: of a model that is no "
            "adapter it is called revision"
        )
    return opener(entry["location"], revision=entry.get("revision"), root=root)


def _open_adapted(entry: Mapping[str, Any], root: Path) -> AdaptedCheckpoint:
    """Open an adapter with the base that is given, or that it names itself."""
    base, revision = entry.get("location"), entry.get("revision")
    if base is None and revision is not None:
        raise ValueError(
            f"beside path_to_adapter, location and revision are those of its base, and revision "
            f"needs location, got {entry}: the adapter's own is called adapter_revision"
        )
    return open_adapter(
        entry["path_to_adapter"],
        revision=entry.get("adapter_revision"),
        base=base,
        base_revision=revision,
        root=root,
    )
