"""Merge-method interface: what a method declares, receives and returns.

A merge method is a pure function ``merge(pivot, sources, site, /, *, ...)``. By default it is
called with *blocks*: flat runs of at most 2**17 consecutive elements of one tensor, not the
tensor. What it returns for an element may then depend on that element of every model and on the
site only. A method that needs more declares it with a decorator:

- :func:`whole_tensor`: it is called with whole tensors, all or some, in their shape;
- :func:`whole_rows`: blocks are cut between rows only;
- :func:`prepared_by`: a preparation passes over the models first, and its result reaches the
  method through ``site.prepared``;
- :func:`takes`: how many sources it merges, and whether their order matters;
- :func:`checked_by`: a check of the hyper-parameters' ranges, before any weights are read.

Hyper-parameters are keyword-only without defaults: the method's YAML holds the values, and its
keys are exactly the parameters that merge function and preparation name. Each function is
called with those that it names; so are the choice of whole tensors and the length of rows.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

from torch import Tensor

from seme.kernels.random_bits import bernoulli
from seme.streaming import Models, OpenTensor


class CheckpointMismatchError(ValueError):
    """Two checkpoints that should hold the same tensors do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Place of a block in the model, seed, and what was prepared for the tensor."""

    name: str
    """Name of the tensor in the pivot's checkpoint."""
    seed: int = 0
    """Seed of the run."""
    prepared: Any = None
    """Result of the preparation's ``at`` for this tensor; None without a preparation."""
    start: int = 0
    """Index in the flat tensor of the block's first element; 0 for a whole tensor."""
    row_length: int = 0
    """Elements of a row, for a method that declares :func:`whole_rows`."""

    def bernoulli_mask(
        self, n_sources: int, shape: Sequence[int], probability: float
    ) -> Tensor:
        """Draw a mask per source, the same on every machine, thread count and cut.

        An element's draw depends on (seed, tensor name, source index) and the element's flat
        index in the tensor, and on nothing else.

        Args:
            n_sources: Number of sources; draws of different sources are independent.
            shape: Shape of the block.
            probability: Of True, in [0, 1], in steps of 2 ** -48.

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
    """A merge function with its hyper-parameters bound.

    Takes the pivot's float32 values, those of every source, all of one shape and on one device,
    and the site; returns merged float32 values of that shape, which the engine rounds once to
    the output dtype. Called from several threads at once; never writes to its inputs.
    """

    def __call__(self, pivot: Tensor, sources: Sequence[Tensor], site: Site, /) -> Tensor: ...


class Prepared(Protocol):
    """Result of a preparation; with ``models`` it is :class:`Realigned`."""

    def at(self, tensor: OpenTensor) -> Any:  # noqa: ANN401  (each method reads its own back)
        """Return ``site.prepared`` of a tensor; called once for each, before it is merged.

        May pass over the tensor. Called for several tensors at once, from several threads.
        """
        ...

    def diagnostics(self) -> Mapping[str, Any]:
        """Return JSON-ready facts for the record, one entry per source where apt."""
        ...


@runtime_checkable
class Realigned(Prepared, Protocol):
    """Result of a preparation that rewrote the sources in the pivot's shape and frame."""

    @property
    def models(self) -> Models:
        """The models to merge instead of those on disk; the pivot's config is the result's."""
        ...


Preparation = Callable[..., Prepared]
"""``prepare(models, /, *, ...)``, called once before any tensor is merged."""
Check = Callable[..., None]
"""``check(*, ...)``: raises ValueError where a hyper-parameter is out of range.

Names the hyper-parameters it checks and, where it needs it, ``n_sources``.
"""
Choice = Callable[..., bool]
"""``choice(name, shape, /, *, ...)``: whether a tensor is needed whole."""
RowLength = Callable[..., int]
"""``length(shape, /, *, ...)``: elements of a tensor's rows, at least 1."""
_MergeFunction = TypeVar("_MergeFunction", bound=Callable[..., Tensor])


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Declarations of a method, made by its decorators."""

    preparation: Preparation | None = None
    any_shape: bool = False
    """The preparation takes sources of other names and shapes than the pivot's."""
    whole_tensor: bool = False
    temporaries: int = 0
    """See :func:`whole_tensor`; likewise the next."""
    per_source: int = 0
    choice: Choice | None = None
    """Which tensors are needed whole; None: all of them."""
    row_length: RowLength | None = None
    """See :func:`whole_rows`; None where blocks are cut anywhere."""
    min_sources: int = 1
    max_sources: int | None = None
    """None for any number."""
    order_matters: bool = False
    """Another order of the sources is another result."""
    check: Check | None = None


def traits_of(method: Callable[..., Tensor]) -> Traits:
    """Return the declarations of a merge function, or of a ``functools.partial`` of it."""
    function = method.func if isinstance(method, functools.partial) else method
    traits: Traits = getattr(function, "traits", Traits())
    return traits


def prepared_by(
    preparation: Preparation, *, any_shape: bool = False
) -> Callable[[_MergeFunction], _MergeFunction]:
    """Declare the preparation that a method needs before tensors are merged.

    Args:
        preparation: Called with the models and the hyper-parameters it names.
        any_shape: It rewrites sources of other names and shapes in the pivot's; without it they
            are refused before the preparation.
    """
    return _declaring(preparation=preparation, any_shape=any_shape)


@overload
def whole_tensor(merge: _MergeFunction, /) -> _MergeFunction: ...
@overload
def whole_tensor(
    *, temporaries: int, per_source: int = 0, choice: Choice | None = None
) -> Callable[[_MergeFunction], _MergeFunction]: ...
def whole_tensor(
    merge: _MergeFunction | None = None,
    /,
    *,
    temporaries: int = 4,
    per_source: int = 0,
    choice: Choice | None = None,
) -> _MergeFunction | Callable[[_MergeFunction], _MergeFunction]:
    """Declare that a method is called with whole tensors in their shape instead of blocks.

    Torch runs on one thread in such a method, so that no result depends on their number; as
    many tensors are merged at once as fit ``memory_budget``.

    Args:
        merge: The merge function, if the decorator is used without arguments.
        temporaries: Most float32 tensors of that shape that the method holds at one time
            besides inputs and result; a float64 copy counts twice, a sort with its indices
            three times. They are taken from the budget.
        per_source: More of them for every source.
        choice: Called with name and shape of a tensor and the hyper-parameters it names: is the
            tensor needed whole? The others come in blocks, which are flat. None: all are.
    """
    declare = _declaring(
        whole_tensor=True, temporaries=temporaries, per_source=per_source, choice=choice
    )
    return declare if merge is None else declare(merge)


def whole_rows(
    length: RowLength, *, per_source: int = 0
) -> Callable[[_MergeFunction], _MergeFunction]:
    """Declare that blocks are cut between rows only: what is returned depends on whole rows.

    Blocks stay flat; ``site.row_length`` says how they divide into rows, of which a tensor's last
    may be shorter. A tensor whose rows are longer than a block is merged whole, in its shape, in
    memory taken from the budget.

    Args:
        length: Called with the shape of a tensor and the hyper-parameters it names; returns the
            elements of its rows, which are consecutive in the flat tensor.
        per_source: Most float32 numbers for each element of a row and each source that the method
            holds at one time besides inputs and result.
    """
    return _declaring(row_length=length, temporaries=0, per_source=per_source)


def takes(
    *, min_sources: int = 1, max_sources: int | None = None, order_matters: bool = False
) -> Callable[[_MergeFunction], _MergeFunction]:
    """Declare which numbers of sources a method merges, and whether their order matters."""
    return _declaring(
        min_sources=min_sources, max_sources=max_sources, order_matters=order_matters
    )


def checked_by(check: Check) -> Callable[[_MergeFunction], _MergeFunction]:
    """Declare the range check of a method's hyper-parameters; see :data:`Check`."""
    return _declaring(check=check)


def _declaring(**declared: Any) -> Callable[[_MergeFunction], _MergeFunction]:  # noqa: ANN401
    def declare(merge: _MergeFunction) -> _MergeFunction:
        merge.traits = replace(traits_of(merge), **declared)  # type: ignore[attr-defined]
        return merge

    return declare
