"""Merge job: a bound method, the opened models of a pool, and their identity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from seme.adapter_merge import check_adapter_merge, merge_to_adapter
from seme.binding import check_method, method_settings
from seme.checkpoint.lora import (
    AdaptedCheckpoint,
    content_hashes,
)
from seme.checkpoint.opening import check_gguf, open_model
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.stacked import StackedCheckpoint
from seme.engine import MergeReport, merge_checkpoints
from seme.interface import Site
from seme.labels import labels_of
from seme.named_model import NamedModel, Opener, open_named
from seme.overrides import text_of
from seme.pool import BASE, check_pool, place_of
from seme.provenance import NUMBERS_VERSION, code_version
from seme.settings import MergeSettings, settings_from_config
from seme.tensor_methods import check_parameters


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
    pivot = open_named(models["pivot"], next(labels), root, opener)
    if isinstance(pivot.checkpoint, AdaptedCheckpoint):
        raise ValueError(
            "the pivot must be a checkpoint of its own, got an adapter: merge the adapter into "
            "its base first (a merge with the base as pivot, the adapter as only source and "
            "method=average does it), or use it as a source"
        )
    sources = tuple(
        open_named(model, next(labels), root, opener) for model in models["sources"]
    )
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
            open_named(model, next(labels), root, opener) for model in models["references"]
        ),
    )


def _pool_name(pivot: NamedModel, sources: tuple[NamedModel, ...]) -> str:
    """Name a pool that has no name after its models."""
    return f"custom: {pivot.name} + {', '.join(source.name for source in sources)}"
