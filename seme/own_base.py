"""Sources with a base of their own: what fine-tuning changed is moved, not the model.

Such a source is seen as pivot + (A(expert) - A(base)). For methods that merge element by element
A is the identity: a chat vector (Huang et al., 2023, https://arxiv.org/abs/2310.04799), computed
in float32 and never rounded to the dtype on disk. Where the method aligns its sources (SeMe), A is
the map found from the base alone, applied to both (ours): the difference between two models that
share no ancestor is mostly misalignment, that between an expert and its base is not. A is linear,
so a LoRA source arrives as its mapped factors would, with its rank.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from seme.budget import demand, rewritten_bytes
from seme.checkpoint.lora import AnyCheckpoint
from seme.checkpoint.protocol import Held, Readable, Weights, describe
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.renamed import in_names_of
from seme.embedding_rows import vocabulary_tensors
from seme.expert_and_base import check_pair
from seme.fitting import fit_sources
from seme.interface import CheckpointMismatchError, Prepared, Realigned
from seme.settings import MergeSettings
from seme.streaming import Models, OpenTensor


@runtime_checkable
class Rewritten(Protocol):
    """A source that a preparation rewrote in the pivot's frame."""

    def alike(self, other: Weights) -> Weights:
        """Rewrite another model of the source's shape by the same map."""
        ...


class MovedSource:
    """The pivot plus a task vector; implements :class:`seme.checkpoint.protocol.Weights`.

    Every tensor is pivot + (expert - base), in float32.
    """

    def __init__(
        self, pivot: Weights, expert: Weights, base: Weights, *, shuffle_seed: int | None
    ) -> None:
        """Remember the three, of one shape and frame; nothing is read.

        Args:
            pivot: The model merged into, as the method sees it.
            expert: The source.
            base: What it was fine-tuned from.
            shuffle_seed: Put the elements of the task vector, tensor by tensor, in an order drawn
                from this seed: a control. None: leave them in theirs.
        """
        self.path: Path = expert.path
        self.config: Mapping[str, Any] = pivot.config
        self._pivot, self._expert, self._base = pivot, expert, base
        self._shuffle_seed = shuffle_seed

    @property
    def tokenizer_folder(self) -> Path:
        return self._pivot.tokenizer_folder

    @property
    def names(self) -> tuple[str, ...]:
        return self._pivot.names

    def shape(self, name: str) -> tuple[int, ...]:
        return self._pivot.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Return float32; of tensors that hold no weights, the pivot's."""
        own = self._pivot.dtype(name)
        return torch.float32 if own.is_floating_point else own

    def read(self, name: str) -> Tensor:
        shape = self.shape(name)
        return self.opened(name).read(0, math.prod(shape)).view(shape)

    def opened(self, name: str) -> Readable:
        """Open one tensor, to be read in pieces; shuffled ones are read here."""
        opened = (model.opened(name) for model in (self._pivot, self._expert, self._base))
        moved = _MovedTensor(*opened)
        if self._shuffle_seed is None:
            return moved
        n = math.prod(self.shape(name))
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        rng = np.random.default_rng([self._shuffle_seed, int.from_bytes(digest)])
        order = torch.from_numpy(rng.permutation(n))
        change = moved.change(0, n)
        return Held(
            self._pivot.opened(name).read(0, n).float() + change[order.to(change.device)]
        )


class _MovedTensor:
    """One tensor of the pivot plus a task vector; a :class:`Readable`."""

    def __init__(self, pivot: Readable, expert: Readable, base: Readable) -> None:
        self._pivot, self._expert, self._base = pivot, expert, base

    def read(self, start: int, stop: int) -> Tensor:
        """Compute the elements [start, stop) of the flat tensor, 1-D, float32."""
        return self._pivot.read(start, stop).float() + self.change(start, stop)

    def change(self, start: int, stop: int) -> Tensor:
        """Compute elements of the task vector, likewise."""
        return self._expert.read(start, stop).float() - self._base.read(start, stop).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedSources:
    """Sources made to fit the pivot, those with a base of their own included."""

    origins: tuple[Weights, ...]
    """The sources; the bases of those that have one: these are compared with the pivot."""
    experts: tuple[Weights | None, ...]
    """The sources that have a base of their own; None in place of the others."""
    notes: list[str]
    """What was done with their rows, one line each."""
    shuffle_seed: int | None
    """See :class:`MovedSource`."""

    @property
    def read(self) -> tuple[Weights, ...]:
        """All models that are read besides the pivot."""
        return (*self.origins, *(expert for expert in self.experts if expert is not None))

    def beside(self, pivot: Weights) -> tuple[Weights, ...]:
        """Return what a method merges into the pivot that needs no preparation of its sources."""
        return self._moved(pivot, self.origins, self.experts)

    def moved(self, prepared: Prepared | None) -> Prepared | None:
        """Rewrite the experts as a preparation rewrote their bases, and move what they changed.

        Raises:
            CheckpointMismatchError: If an expert has an LM head that the merged model has not.
            ValueError: If the memory budget is too small to rewrite them.
        """
        if prepared is None or not any(self.experts):
            return prepared
        assert isinstance(prepared, Realigned), "methods that take any shape return the models"
        models = prepared.models
        self._refuse_lost_heads(models.pivot)
        if any(isinstance(origin, Rewritten) for origin in models.sources):
            sizes = {n: math.prod(models.pivot.shape(n)) for n in models.pivot.names}
            demand(
                rewritten_bytes(sizes, len(self.read)),
                models.memory_budget,
                "rewriting sources and their bases that are not in the pivot's frame",
            )
        experts = [
            origin.alike(expert)
            if expert is not None and isinstance(origin, Rewritten)
            else expert
            for origin, expert in zip(models.sources, self.experts, strict=True)
        ]
        sources = self._moved(models.pivot, models.sources, experts)
        return _Moved(prepared, replace(models, sources=sources))

    def _refuse_lost_heads(self, merged: Weights) -> None:
        """Refuse an LM head of an expert alone where no source is turned, and none is written."""
        for i, expert in enumerate(self.experts):
            own = () if expert is None else vocabulary_tensors(expert)
            if expert is not None and (lost := sorted(set(own) - set(merged.names))):
                raise CheckpointMismatchError(
                    f"{describe(i, expert)} has {lost[0]}, which neither its base nor the merged "
                    "model has: what fine-tuning changed there would be lost; give a pivot that "
                    "has it (tie_word_embeddings: false), or alignment.identity_tolerance=0, "
                    "which rewrites all models and writes it"
                )

    def _moved(
        self, pivot: Weights, origins: Sequence[Weights], experts: Sequence[Weights | None]
    ) -> tuple[Weights, ...]:
        return tuple(
            origin
            if expert is None
            else MovedSource(pivot, expert, origin, shuffle_seed=self.shuffle_seed)
            for origin, expert in zip(origins, experts, strict=True)
        )


class _Moved:
    """A preparation's result with other models; implements :class:`seme.interface.Realigned`."""

    def __init__(self, prepared: Prepared, models: Models) -> None:
        self._prepared = prepared
        self.models = models

    def at(self, tensor: OpenTensor) -> Any:  # noqa: ANN401 (the preparation's own)
        return self._prepared.at(tensor)

    def diagnostics(self) -> Mapping[str, Any]:
        return self._prepared.diagnostics()


def fit_all(
    method: partial[Tensor],
    pivot: Checkpoint,
    sources: Sequence[AnyCheckpoint],
    bases: Sequence[Checkpoint | None],
    copied: Mapping[str, str],
    *,
    any_shape: bool,
    settings: MergeSettings,
) -> FittedSources:
    """Check the bases and fit all models to the pivot; see :func:`seme.fitting.fit_sources`.

    Args:
        method: Bound; its ``alignment.shuffle_task_vectors`` is used, if it has one.
        pivot: The model merged into.
        sources: Models merged from.
        bases: What each of them was fine-tuned from; None for the pivot.
        copied: The pivot's tensors that are not merged.
        any_shape: The method takes sources of any shape.
        settings: Merge settings common to all methods.

    Raises:
        CheckpointMismatchError: If a source differs from its base in tensors or tokens, or does
            not fit the pivot.
        ValueError: If a control is for sources with a base and one has none.
    """
    shuffles = (method.keywords.get("alignment") or {}).get("shuffle_task_vectors", False)
    for i, (source, base) in enumerate(zip(sources, bases, strict=True)):
        if base is not None:
            check_pair(i, source, base, heads=any_shape)
        elif shuffles:
            raise ValueError(
                "alignment.shuffle_task_vectors is a control for sources with a base of their "
                f"own, and {describe(i, source)} has none: give it one, {{location: ..., base: ...}}"
            )

    def fit(models: Sequence[AnyCheckpoint]) -> tuple[tuple[Weights, ...], list[str]]:
        renamed = tuple(in_names_of(pivot, model) for model in models)
        return fit_sources(pivot, renamed, copied, any_shape=any_shape, settings=settings)

    origins, notes = fit([base or source for source, base in zip(sources, bases, strict=True)])
    experts: Sequence[Weights | None] = [None] * len(sources)
    if any(bases):
        fitted, _ = fit(sources)
        experts = [
            None if base is None else expert for expert, base in zip(fitted, bases, strict=True)
        ]
    return FittedSources(
        origins=origins,
        experts=tuple(experts),
        notes=notes,
        shuffle_seed=settings.seed if shuffles else None,
    )
