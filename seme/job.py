"""Merge job: a bound method, the opened models of a pool, and their identity."""

import difflib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from seme.adapter_merge import check_adapter_merge, merge_to_adapter
from seme.binding import check_method, method_settings
from seme.checkpoint.gguf_conversion import origin_of
from seme.checkpoint.lora import (
    AdaptedCheckpoint,
    AnyCheckpoint,
    content_hashes,
    open_adapter,
)
from seme.checkpoint.opening import check_gguf, open_model
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.stacked import StackedCheckpoint
from seme.engine import MergeReport, merge_checkpoints
from seme.interface import Site
from seme.labels import labels_of
from seme.overrides import text_of
from seme.pool import BASE, check_pool, place_of
from seme.provenance import NUMBERS_VERSION, code_version
from seme.settings import MergeSettings, settings_from_config
from seme.tensor_methods import check_parameters

Opener = Callable[..., Checkpoint]
"""Opens a model; called as :func:`seme.checkpoint.opening.open_model` is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """An opened model of a pool: headers are read, weights are not."""

    name: str
    location: str
    """Folder, relative to the repository or to ``~`` if it is in one of them, or hub id; the
    adapter's where there is one."""
    revision: str | None
    """Revision of that location, as configured."""
    checkpoint: AnyCheckpoint
    base: "NamedModel | None" = None
    """What a source was fine-tuned from, where it is not the pivot; a checkpoint of its own."""

    @property
    def own_base(self) -> Checkpoint | None:
        """Checkpoint of the base of its own, if it has one."""
        if self.base is None:
            return None
        assert isinstance(self.base.checkpoint, Checkpoint), "bases are opened whole"
        return self.base.checkpoint

    def described(self) -> dict[str, Any]:
        """Name, location, revision, commit on the Hub and content hash, for the record.

        A model converted from GGUF, or on such a base, has ``dequantised_from`` as well, one
        of stacked layers ``layers``, a source with a base of its own ``base``.
        """
        base = self.checkpoint.base if isinstance(self.checkpoint, AdaptedCheckpoint) else None
        origin = origin_of((base or self.checkpoint).path)
        layers = getattr(self.checkpoint, "layers", None)
        return {
            "name": self.name,
            "location": self.location,
            "revision": self.revision,
            "commit": self.checkpoint.commit,
            "base_commit": None if base is None else base.commit,
            "content_hash": self.checkpoint.content_hash(),
            **({} if origin is None else {"dequantised_from": origin}),
            **({} if layers is None else {"layers": [list(part) for part in layers]}),
            **({} if self.base is None else {"base": self.base.described()}),
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
    def own_bases(self) -> tuple[Checkpoint | None, ...]:
        """What each source was fine-tuned from; None for the pivot."""
        return tuple(source.own_base for source in self.sources)

    @property
    def models(self) -> tuple[NamedModel, ...]:
        """The pivot, the sources and the references: a leaderboard's unmerged models."""
        return (self.pivot, *self.sources, *self.references)

    @property
    def tokenizer_folders(self) -> list[Path]:
        """Folder of each model's tokenizer; an adapter's is that of its base."""
        checkpoints = [model.checkpoint for model in self.models]
        return [
            c.base.path if isinstance(c, AdaptedCheckpoint) else c.path for c in checkpoints
        ]

    def hyper_parameters(self) -> dict[str, Any]:
        """The method's own, JSON-ready, and ``overrides`` as text where there are any."""
        overrides = self.settings.overrides
        by_tensor = {"overrides": text_of(overrides)} if overrides else {}
        return {**method_settings(self.method), **by_tensor}

    def described_models(self) -> dict[str, Any]:
        """The pool, the pivot, the sources and the references, for the record."""
        return {
            "pool": self.pool,
            "pivot": self.pivot.described(),
            "sources": [source.described() for source in self.sources],
            "references": [reference.described() for reference in self.references],
        }

    def identity(self) -> dict[str, Any]:
        """Everything that determines the merged weights, JSON-ready.

        Locations and names of the models, the device and the memory do not.
        """
        bases = [base for base in self.own_bases if base is not None]
        pivot, *others = content_hashes([*(m.checkpoint for m in self.models), *bases])
        hashes = iter(others[len(self.models) - 1 :])
        own_bases = [None if base is None else next(hashes) for base in self.own_bases]
        return {
            "method": self.method_name,
            "code": code_version(self.method),
            "numbers": NUMBERS_VERSION,
            "hyper_parameters": self.hyper_parameters(),
            "pivot": pivot,
            "sources": others[: len(self.sources)],
            **({"bases": own_bases} if bases else {}),
            "seed": self.settings.seed,
            "dtype": str(self.settings.dtype),
            "include": self.settings.include,
            "exclude": self.settings.exclude,
            **({} if self.settings.tokens == "same" else {"tokens": self.settings.tokens}),
            **(
                {"adapter_rank": self.settings.adapter_rank} if self.settings.as_adapter else {}
            ),
        }

    def identity_of(self, model: NamedModel) -> dict[str, Any]:
        """Everything that determines the weights of a model that is not merged, JSON-ready."""
        content = {"reference": model.checkpoint.content_hash()}
        if isinstance(model.checkpoint, AdaptedCheckpoint | StackedCheckpoint):
            return {**content, "dtype": str(self.settings.dtype)}  # see folder_of
        return content

    def run(self, destination: Path, *, progress: bool | str) -> MergeReport:
        """Merge into a new folder; see :func:`seme.engine.merge_checkpoints`.

        With ``merged_as=adapter`` see :func:`seme.adapter_merge.merge_to_adapter`.
        """
        sources = [source.checkpoint for source in self.sources]
        if self.settings.as_adapter:
            return merge_to_adapter(
                self.method,
                self.base,
                sources,
                destination,
                settings=self.settings,
                progress=progress,
            )
        return merge_checkpoints(
            self.method,
            self.base,
            sources,
            destination,
            settings=self.settings,
            progress=progress,
            bases=self.own_bases,
        )

    def folder_of(self, model: NamedModel, scratch: Path) -> Path:
        """Return a folder that transformers loads a model of this job from.

        Args:
            model: One of :attr:`models`.
            scratch: A new folder, made for an adapter and for stacked layers only: its base
                with the adapter merged in, or the model, in the dtype of the merges.
        """
        checkpoint = model.checkpoint
        if not isinstance(checkpoint, AdaptedCheckpoint | StackedCheckpoint):
            return checkpoint.path
        base = checkpoint if isinstance(checkpoint, StackedCheckpoint) else checkpoint.base
        settings = replace(self.settings, include=(), exclude=(), overrides=(), tokens="by_id")
        merge_checkpoints(
            partial(_the_source),
            base,
            [checkpoint],
            scratch,
            settings=settings,
            progress=False,
        )
        return scratch


def _the_source(_pivot: Tensor, sources: Sequence[Tensor], _site: Site, /) -> Tensor:
    """Return the only source."""
    return sources[0]


def job_from_config(
    config: Mapping[str, Any],
    method_name: str,
    method: partial[Tensor],
    *,
    root: Path,
    opener: Opener = open_model,
) -> MergeJob:
    """Check a run's configuration and open its models; no weights are read.

    Args:
        config: The resolved top level of the configuration, with ``models``.
        method_name: Stem of the method's configuration file.
        method: The merge function with its hyper-parameters bound.
        root: Folder that relative locations start from, the repository's.
        opener: Opens the checkpoints; :func:`seme.outline.open_outline` where weights may be
            absent.

    Raises:
        ValueError: If a value, a hyper-parameter, the number of sources or a model cannot be
            used; says which. All but the models is checked before one is opened.
    """
    settings = settings_from_config(config)
    models = check_pool(config["models"])
    check_method(method, len(models["sources"]))
    check_parameters(method, settings.overrides)
    entries = [models["pivot"], *models["sources"], *models["references"]]
    labels = iter(labels_of([place_of(entry, root) for entry in entries]))
    for entry in entries:
        for model in (entry, entry.get(BASE) or {}):
            if model.get("location") is not None:  # before another is converted
                check_gguf(model["location"], revision=model.get("revision"), root=root)
    pivot = _open(models["pivot"], next(labels), root, opener)
    if isinstance(pivot.checkpoint, AdaptedCheckpoint):
        raise ValueError(
            "the pivot must be a checkpoint of its own, got an adapter: merge the adapter into "
            "its base first (a merge with the base as pivot, the adapter as only source and "
            "method=average does it), or use it as a source"
        )
    sources = tuple(_open(model, next(labels), root, opener) for model in models["sources"])
    if settings.as_adapter:
        base = pivot.checkpoint
        opened = [source.checkpoint for source in sources]
        check_adapter_merge(method, base, opened, settings.adapter_rank)
    return MergeJob(
        method_name=method_name,
        method=method,
        settings=settings,
        pool=models["name"] or _pool_name(pivot, sources),
        pivot=pivot,
        sources=sources,
        references=tuple(
            _open(model, next(labels), root, opener) for model in models["references"]
        ),
    )


def _pool_name(pivot: NamedModel, sources: tuple[NamedModel, ...]) -> str:
    """Name a pool that has no name after its models."""
    return f"custom: {pivot.name} + {', '.join(source.name for source in sources)}"


def _open(entry: Mapping[str, Any], label: str, root: Path, opener: Opener) -> NamedModel:
    """Open a model."""
    place = place_of(entry, root)
    is_adapter = entry.get("path_to_adapter") is not None
    with _saying_where(place.location, root):
        checkpoint = (
            _open_adapted(entry, root) if is_adapter else _open_whole(entry, root, opener)
        )
    base = entry.get(BASE)
    return NamedModel(
        name=label,
        location=place.location,
        revision=place.revision,
        checkpoint=checkpoint,
        base=None if base is None else _open_base(base, label, root, opener),
    )


def _open_base(entry: Mapping[str, Any], label: str, root: Path, opener: Opener) -> NamedModel:
    """Open what a source was fine-tuned from."""
    try:
        return _open(entry, f"base of {label}", root, opener)
    except ValueError as error:
        error.add_note(f"while opening the base of {label}")
        raise


@contextmanager
def _saying_where(location: str, root: Path) -> Iterator[None]:
    """Say where a relative location is looked for, if there is nothing."""
    try:
        yield
    except ValueError as error:
        relative = not Path(location).expanduser().is_absolute()
        if relative and not (root / location).exists():
            here = Path(os.environ.get("PWD", "")) / location
            hint = f"; did you mean {here}?" if here.is_dir() else _nearest(location, root)
            error.add_note(f"relative folders are looked for in {root}{hint}")
        raise


def _nearest(location: str, root: Path) -> str:
    """Say which folder beside an absent one was probably meant."""
    place = Path(location)
    beside = [path.name for path in (root / place.parent).glob("*") if path.is_dir()]
    near = difflib.get_close_matches(place.name, sorted(beside), n=1)
    return f"; did you mean {place.with_name(near[0])}?" if near else ""


def _open_whole(entry: Mapping[str, Any], root: Path, opener: Opener) -> Checkpoint:
    if entry.get("adapter_revision") is not None:
        raise ValueError(
            f"adapter_revision needs path_to_adapter, got {entry}; for a model that is no "
            "adapter use revision"
        )
    opened = opener(entry["location"], revision=entry.get("revision"), root=root)
    if (layers := entry.get("layers")) is None:
        return opened
    return StackedCheckpoint(opened, [(first, end) for first, end in layers])


def _open_adapted(entry: Mapping[str, Any], root: Path) -> AdaptedCheckpoint:
    """Open an adapter with the base given, or the one its configuration names."""
    base, revision = entry.get("location"), entry.get("revision")
    if base is None and revision is not None:
        raise ValueError(
            f"with path_to_adapter, location and revision name its base, and revision needs "
            f"location, got {entry}; for the adapter's own use adapter_revision"
        )
    return open_adapter(
        entry["path_to_adapter"],
        revision=entry.get("adapter_revision"),
        base=base,
        base_revision=revision,
        root=root,
    )
