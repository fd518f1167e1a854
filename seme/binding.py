"""Binding of a merge method: its function, its hyper-parameters, and the checks of both."""

import difflib
import functools
import inspect
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor

from seme.interface import Merge, Prepared, Traits, traits_of
from seme.streaming import Models

_METHOD_PACKAGES = ("seme.", "baselines.")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_N_SOURCES = "n_sources"
"""The one parameter of a check that is no hyper-parameter."""


def bind_method(config: Mapping[str, Any]) -> functools.partial[Tensor]:
    """Bind a method's hyper-parameters to its merge function.

    Args:
        config: A parsed file of ``conf/method``: ``_target_``, the dotted name of a merge
            function; ``_partial_``; and its hyper-parameters.

    Raises:
        ValueError: If ``_target_`` is not a function that its module in ``seme`` or
            ``baselines`` defines, or the module cannot be imported.
    """
    target = str(config.get("_target_"))
    module, _, name = target.rpartition(".")
    if not target.startswith(_METHOD_PACKAGES):
        raise ValueError(f"a method's _target_ is in {_METHOD_PACKAGES}, got {target}")
    function = getattr(_module(module, target), name, None)
    if not inspect.isfunction(function):
        raise ValueError(
            f"the method's _target_ {target} does not exist or is no function: expected a "
            f"function that {module} defines with def, got {function!r:.60}"
        )
    if function.__module__ != module:  # the fingerprint is of the module that defines it
        raise ValueError(
            f"the method's _target_ {target} is defined in {function.__module__}: give it by "
            "that name, or define a function of its own with def (decorators of yours use "
            "functools.wraps)"
        )
    keywords = {k: v for k, v in config.items() if k not in ("_target_", "_partial_")}
    return functools.partial(function, **keywords)


def _module(name: str, target: str) -> ModuleType:
    """Import a method's module; whatever stops it becomes one line."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"the method's _target_ {target} does not exist: {error}") from error
    except Exception as error:  # any mistake in the file
        frames = traceback.extract_tb(error.__traceback__)
        place = "" if isinstance(error, SyntaxError) else f" (line {frames[-1].lineno} of "
        place += f"{frames[-1].filename})" if place else ""
        raise ValueError(
            f"the method's module {name} cannot be imported: "
            f"{type(error).__name__}: {error}{place}"
        ) from error


def check_method(method: functools.partial[Tensor], n_sources: int) -> None:
    """Check a method's hyper-parameters and the number of sources; no weights are needed.

    Args:
        method: A merge function with its hyper-parameters bound.
        n_sources: Number of sources to be merged.

    Raises:
        ValueError: If a function of the method takes other arguments than it should, a
            hyper-parameter is unknown, unbound or out of range, or the method does not merge
            that many sources.
    """
    name = f"{method.func.__module__}.{method.func.__qualname__}"
    if method.args:
        raise ValueError(f"{name}: only keyword parameters can be bound, got {method.args}")
    traits = traits_of(method)
    _check_signature(name, method.func, ("pivot", "sources", "site"))
    if traits.preparation is not None:
        _check_signature(f"the preparation of {name}", traits.preparation, ("models",))
    if traits.check is not None:
        _check_signature(f"the check of {name}", traits.check, ())
    _check_names(name, set(method.keywords), hyper_parameter_names(method))
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
    """Return the parameters that a method names, its YAML's keys.

    Those of the merge function, of its preparation, of its choice of whole tensors and of the length of
    its rows.
    """
    function = method.func if isinstance(method, functools.partial) else method
    traits = traits_of(method)
    named = (function, traits.preparation, traits.choice, traits.row_length)
    return {key for part in named if part is not None for key in _keyword_only(part)}


def method_settings(method: functools.partial[Tensor]) -> dict[str, Any]:
    """Return a method's bound hyper-parameters as plain, JSON-ready values.

    Entries of nested mappings have dotted keys, as on the command line.

    Raises:
        ValueError: If JSON cannot hold a value: NaN and infinities among them.
    """
    return {key: _plain(key, value) for key, value in _dotted(method.keywords)}


def named_by(
    function: Callable[..., object], method: functools.partial[Tensor]
) -> dict[str, Any]:
    """Pick a method's hyper-parameters that a function names."""
    return {key: method.keywords[key] for key in sorted(_keyword_only(function))}


def merge_function(method: functools.partial[Tensor]) -> Merge:
    """Return the merge function bound to the hyper-parameters it names."""
    return functools.partial(method.func, **named_by(method.func, method))


def prepare(method: functools.partial[Tensor], models: Models) -> Prepared | None:
    """Run a method's preparation, if it has one, with the hyper-parameters it names."""
    preparation = traits_of(method).preparation
    if preparation is None:
        return None
    prepared = preparation(models, **named_by(preparation, method))
    if not (hasattr(prepared, "at") and hasattr(prepared, "diagnostics")):
        raise ValueError(
            f"the preparation of {method.func.__module__} must return an object with "
            f"at(tensor) and diagnostics(), got {prepared!r:.60}"
        )
    return prepared


def _check_signature(
    name: str, function: Callable[..., object], positional: tuple[str, ...]
) -> None:
    """Demand these positional arguments, and nothing else that is not keyword-only."""
    signature = inspect.signature(function)
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    n_named = sum(kind in _POSITIONAL for kind in kinds)
    takes_any = inspect.Parameter.VAR_POSITIONAL in kinds and n_named < len(positional)
    if (n_named != len(positional) and not takes_any) or inspect.Parameter.VAR_KEYWORD in kinds:
        expected = f"({', '.join([*positional, *(['/'] if positional else []), '*', '...'])})"
        raise ValueError(
            f"{name} must have the signature {expected}, its hyper-parameters by name after "
            f"the *, got {signature}"
        )


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
