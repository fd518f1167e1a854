"""The interface between the engine and a merge method.

A merge method is a pure function over a block of one tensor, ``merge(pivot, sources, site, /, *,
...)``: what it returns for an element may depend on that element of every model and on the site.
What it needs to know of the whole tensor or the whole model is computed before by a
*preparation*, which the method names with :func:`prepared_by`; the result reaches the method
through ``site.prepared``.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from seme.kernels.random_bits import bernoulli
from seme.streaming import Models, OpenTensor


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
    start: int = 0
    """Index in the flat tensor of the block's first element."""

    def bernoulli_mask(
        self, n_sources: int, shape: Sequence[int], probability: float
    ) -> Tensor:
        """Toss a coin per element and source, the same on every machine, thread count and order.

        A coin depends on (seed, tensor name, source index) and the element's flat index in the
        tensor, and on nothing else.

        Args:
            n_sources: Number of sources; each has coins of its own.
            shape: Shape of the block.
            probability: Of true, in [0, 1], in steps of 2 ** -48.

        Returns:
            Booleans on the CPU, (n_sources, *shape).
        """
        seeds = [_seed_of(self.seed, self.name, source) for source in range(n_sources)]
        return bernoulli(seeds, self.start, math.prod(shape), probability).view(
            n_sources, *shape
        )


@functools.lru_cache(maxsize=64)
def _seed_of(seed: int, name: str, source: int) -> int:
    key = f"{seed}\0{name}\0{source}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


class Merge(Protocol):
    """A block of one tensor of the pivot and of every source in, the merged block out.

    A block holds consecutive elements of the flat tensor, in float32, of one shape and on one
    device; the engine rounds the result once to the output dtype. How the tensor is cut must
    not show. Inputs are never written to; called from several threads at once. Hyper-parameters are keyword-only without
    defaults (defaults live in the method's YAML) and bound before the engine sees the function.
    """

    def __call__(self, pivot: Tensor, sources: Sequence[Tensor], site: Site, /) -> Tensor: ...


class Prepared(Protocol):
    """The outcome of a preparation.

    One that has ``models`` changes what is merged: the walk goes over these models instead of
    those on disk; see :class:`Realigned`.
    """

    def at(self, tensor: OpenTensor) -> Any:  # noqa: ANN401  (each method reads its own back)
        """What ``site.prepared`` will be for a tensor; called once for each, before its walk.

        May pass over the tensor. Called for several tensors at once, from several threads.
        """
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
