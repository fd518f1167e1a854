"""The interface between the engine and a merge method.

A merge method is a pure function over one tensor, ``merge(pivot, sources, site, /, *, ...)``.
What it needs to know about the whole model is computed before the walk by a *preparation*, a
streaming pass that the method names with :func:`prepared_by`; the result reaches the method
through ``site.prepared``.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor


class CheckpointMismatchError(ValueError):
    """Two checkpoints that should hold the same tensors do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a tensor stands in the model: all that a method may know beside the weights."""

    name: str
    """Name of the tensor in the pivot's checkpoint."""
    seed: int = 0
    """Seed of the run."""
    prepared: Any = None
    """What the method's preparation found for this tensor; None without a preparation."""

    def uniform(self, source: int, shape: Sequence[int]) -> Tensor:
        """Draw one number per element, the same on every machine, thread count and order.

        The draw depends on (seed, tensor name, source index) and the element's flat index, and
        on nothing else.

        Args:
            source: Index of the source the draw is for.
            shape: Shape of the tensor.

        Returns:
            float32 numbers in [0, 1) of that shape, on the CPU.
        """
        key = f"{self.seed}\0{self.name}\0{source}".encode()
        words = np.frombuffer(hashlib.blake2b(key, digest_size=32).digest(), dtype=np.uint32)
        rng = np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(words.tolist())))
        return torch.from_numpy(rng.random(tuple(shape), dtype=np.float32))


class Merge(Protocol):
    """One tensor of the pivot and of every source in, the merged tensor out.

    All tensors are float32, of one shape and on one device; the engine rounds the result once
    to the output dtype. Inputs are never written to. Hyper-parameters are keyword-only without
    defaults (defaults live in the method's YAML) and bound before the engine sees the function.
    """

    def __call__(self, pivot: Tensor, sources: Sequence[Tensor], site: Site, /) -> Tensor: ...


class Weights(Protocol):
    """A checkpoint as methods see it: names, shapes, configuration, one tensor at a time."""

    @property
    def path(self) -> Path:
        """The model's folder, for its tokenizer."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The parsed ``config.json``."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors on disk, sorted; a tied tensor stands once."""
        ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype:
        """The dtype on disk."""
        ...

    def read(self, name: str) -> Tensor:
        """Read one tensor: in its own dtype from disk, in float32 if it was rewritten."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a merge as a preparation sees them; read by streaming, never kept."""

    pivot: Weights
    sources: tuple[Weights, ...]
    merged_names: tuple[str, ...]
    """Tensors the method will be called for, in the order of the walk."""
    device: torch.device

    def stream(self) -> Iterator[tuple[str, Tensor, tuple[Tensor, ...]]]:
        """Yield (name, pivot, sources) in float32 on ``device``, one tensor at a time."""
        for name in self.merged_names:
            yield (
                name,
                self.pivot.read(name).to(self.device, torch.float32),
                tuple(s.read(name).to(self.device, torch.float32) for s in self.sources),
            )


class Prepared(Protocol):
    """The outcome of a preparation.

    One that has ``models`` changes what is merged: the walk goes over these models instead of
    those on disk; see :class:`Realigned`.
    """

    def at(self, name: str) -> Any:  # noqa: ANN401  (each method reads its own type back)
        """What ``site.prepared`` will be for the tensor ``name``."""
        ...

    def diagnostics(self) -> Mapping[str, Any]:
        """JSON-ready facts for the record: what was found, one entry per source where apt."""
        ...


@runtime_checkable
class Realigned(Prepared, Protocol):
    """The outcome of a preparation that brought the sources into the pivot's shape and frame."""

    @property
    def models(self) -> Models:
        """The models to walk over; the pivot's configuration is the merged model's."""
        ...


Preparation = Callable[..., Prepared]
"""``prepare(models, /, *, ...)``: its keyword-only parameters are some of the method's own."""

_MergeFunction = TypeVar("_MergeFunction", bound=Callable[..., Tensor])


def prepared_by(
    preparation: Preparation, *, any_shape: bool = False
) -> Callable[[_MergeFunction], _MergeFunction]:
    """Name the pass over the whole model that a method needs before its walk.

    Args:
        preparation: The pass.
        any_shape: Whether it brings sources of other names and shapes into the pivot's; without
            it they are refused before the pass.
    """

    def name_it(merge: _MergeFunction) -> _MergeFunction:
        merge.preparation = preparation  # type: ignore[attr-defined]
        merge.any_shape = any_shape  # type: ignore[attr-defined]
        return merge

    return name_it
