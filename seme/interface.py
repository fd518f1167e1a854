"""Merge-method interface: what a method declares, receives and returns, and how it is bound.

A merge method is a pure function ``merge(pivot, sources, site, /, *, ...)``. By default it is
called with *blocks*: flat runs of at most 2**17 consecutive elements of one tensor, not the
tensor. What it returns for an element may then depend on that element of every model and on the
site only. A method that needs more declares it with a decorator:

- :func:`whole_tensor`: it is called with whole tensors in their shape;
- :func:`prepared_by`: a preparation passes over the models first, and its result reaches the
  method through ``site.prepared``;
- :func:`takes`: how many sources it merges, and whether their order matters;
- :func:`checked_by`: a check of the hyper-parameters' ranges, before any weights are read.

Hyper-parameters are keyword-only without defaults: the method's YAML holds the values, and its
keys are exactly the parameters that merge function and preparation name. Each function is
called with those that it names.
"""

import difflib
import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

from torch import Tensor

from seme.kernels.random_bits import bernoulli
from seme.streaming import Models, OpenTensor

_METHOD_PACKAGES = ("seme.", "baselines.")
_N_SOURCES = "n_sources"
"""The one parameter of a check that is no hyper-parameter."""


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
    *, temporaries: int, per_source: int = 0
) -> Callable[[_MergeFunction], _MergeFunction]: ...
def whole_tensor(
    merge: _MergeFunction | None = None, /, *, temporaries: int = 4, per_source: int = 0
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
    """
    declare = _declaring(whole_tensor=True, temporaries=temporaries, per_source=per_source)
    return declare if merge is None else declare(merge)


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


def bind_method(config: Mapping[str, Any]) -> functools.partial[Tensor]:
    """Bind a method's hyper-parameters to its merge function.

    Args:
        config: A parsed file of ``conf/method``: ``_target_``, the dotted name of a merge
            function; ``_partial_``; and its hyper-parameters.

    Raises:
        ValueError: If ``_target_`` is not a function in ``seme`` or ``baselines``.
    """
    target = str(config.get("_target_"))
    module, _, name = target.rpartition(".")
    if not target.startswith(_METHOD_PACKAGES):
        raise ValueError(f"a method's _target_ is in {_METHOD_PACKAGES}, got {target}")
    try:
        function = getattr(import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"the method's _target_ {target} does not exist: {error}") from error
    if not inspect.isfunction(function):
        raise ValueError(f"the method's _target_ {target} must be a function, it is none")
    keywords = {k: v for k, v in config.items() if k not in ("_target_", "_partial_")}
    return functools.partial(function, **keywords)


def check_method(method: functools.partial[Tensor], n_sources: int) -> None:
    """Check a method's hyper-parameters and the number of sources; no weights are needed.

    Args:
        method: A merge function with its hyper-parameters bound.
        n_sources: Number of sources to be merged.

    Raises:
        ValueError: If a hyper-parameter is unknown, unbound or out of range, or the method does
            not merge that many sources.
    """
    name = f"{method.func.__module__}.{method.func.__qualname__}"
    if method.args:
        raise ValueError(f"{name}: only keyword parameters can be bound, got {method.args}")
    _check_names(name, set(method.keywords), hyper_parameter_names(method))
    traits = traits_of(method)
    _check_arity(name, traits, n_sources)
    if traits.check is not None:
        values = {**method.keywords, _N_SOURCES: n_sources}
        if extra := _keyword_only(traits.check) - values.keys():
            raise ValueError(
                f"the check of {name} names {_listed(extra)}, which neither the method nor its "
                "preparation has"
            )
        traits.check(**{key: values[key] for key in _keyword_only(traits.check)})
    method_settings(method)


def hyper_parameter_names(method: Callable[..., Tensor]) -> set[str]:
    """Return the parameters that a merge function and its preparation name: its YAML's keys."""
    function = method.func if isinstance(method, functools.partial) else method
    preparation = traits_of(method).preparation
    prepared = set() if preparation is None else _keyword_only(preparation)
    return _keyword_only(function) | prepared


def method_settings(method: functools.partial[Tensor]) -> dict[str, Any]:
    """Return a method's bound hyper-parameters as plain, JSON-ready values.

    Entries of nested mappings have dotted keys, as on the command line.

    Raises:
        ValueError: If JSON cannot hold a value: NaN and infinities among them.
    """
    return {key: _plain(key, value) for key, value in _dotted(method.keywords)}


def merge_function(method: functools.partial[Tensor]) -> Merge:
    """Return the merge function bound to the hyper-parameters it names."""
    return functools.partial(method.func, **_named_by(method.func, method))


def prepare(method: functools.partial[Tensor], models: Models) -> Prepared | None:
    """Run a method's preparation, if it has one, with the hyper-parameters it names."""
    preparation = traits_of(method).preparation
    if preparation is None:
        return None
    return preparation(models, **_named_by(preparation, method))


def _check_names(name: str, given: set[str], valid: set[str]) -> None:
    for key in sorted(given - valid):
        close = difflib.get_close_matches(key, sorted(valid), n=1)
        hint = f"did you mean {close[0]}?" if close else "is it of a variant of another method?"
        raise ValueError(f"{name} has no parameter {key}, only {_listed(valid)}; {hint}")
    if missing := valid - given:
        raise ValueError(f"{name} needs {_listed(missing)} as well; it takes {_listed(valid)}")


def _check_arity(name: str, traits: Traits, n_sources: int) -> None:
    least, most = traits.min_sources, traits.max_sources
    if n_sources < least or (most is not None and n_sources > most):
        expected = f"at least {least}" if most is None else f"{least} to {most}"
        if least == most:
            expected = f"exactly {least}"
        noun = "source" if (most or least) == 1 else "sources"
        raise ValueError(
            f"{name} merges {expected} {noun} into the pivot, got {n_sources}: change "
            "models.sources"
        )


def _named_by(
    function: Callable[..., object], method: functools.partial[Tensor]
) -> dict[str, Any]:
    """Pick a method's hyper-parameters that a function names."""
    return {key: method.keywords[key] for key in sorted(_keyword_only(function))}


def _keyword_only(function: Callable[..., object]) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _dotted(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in sorted(mapping.items()):
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(key: str, value: object) -> object:
    """Return a value as JSON would give it back."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} must be finite, got {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Sequence):
        return [_plain(key, item) for item in value]
    raise ValueError(f"{key} must be a number, text, list or mapping, got {value!r}")
