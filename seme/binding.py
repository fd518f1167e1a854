"""A method and its hyper-parameters: checked against its signature before any weights are read."""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from torch import Tensor

from seme.interface import Preparation, Prepared
from seme.streaming import Models

_METHOD_PACKAGES = ("seme.", "baselines.")


def bind_method(config: Mapping[str, Any]) -> functools.partial[Tensor]:
    """Bind a method's hyper-parameters; only functions of our own packages are called.

    Args:
        config: A parsed file of ``conf/method``: ``_target_``, the dotted name of a merge
            function; ``_partial_``; and its keyword-only parameters.

    Raises:
        ValueError: If ``_target_`` names none.
    """
    target = str(config.get("_target_"))
    module, _, name = target.rpartition(".")
    if not target.startswith(_METHOD_PACKAGES):
        raise ValueError(f"a method's _target_ is in {_METHOD_PACKAGES}, got {target}")
    try:
        function = getattr(import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"the method's _target_ {target} is no function of ours") from error
    given = {
        key: value for key, value in config.items() if key not in ("_target_", "_partial_")
    }
    return functools.partial(function, **given)


def check_method(method: functools.partial[Tensor]) -> None:
    """Check a method's hyper-parameters against its signature, before any weights are read.

    Args:
        method: A merge function with its keyword-only parameters bound.

    Raises:
        ValueError: If a hyper-parameter is unknown or unbound, or if the method's preparation
            asks for one that the method does not have.
    """
    name = f"{method.func.__module__}.{method.func.__qualname__}"
    valid = _keyword_only(method.func)
    if method.args:
        raise ValueError(f"{name}: only keyword parameters can be bound, got {method.args}")
    for key in sorted(set(method.keywords) - valid):
        close = difflib.get_close_matches(key, sorted(valid), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{name} has no parameter {key}, only {_listed(valid)}{hint}")
    missing = valid - set(method.keywords)
    if missing:
        raise ValueError(f"{name} needs {_listed(missing)} as well; it takes {_listed(valid)}")
    preparation = _preparation(method)
    if preparation is not None and not _keyword_only(preparation) <= valid:
        extra = _keyword_only(preparation) - valid
        raise ValueError(f"the preparation of {name} takes {_listed(extra)}, which it has not")


def method_settings(method: functools.partial[Tensor]) -> dict[str, Any]:
    """Return a method's bound hyper-parameters as plain, JSON-ready values.

    Raises:
        ValueError: If a value is nothing that JSON can hold.
    """
    return {key: _plain(key, value) for key, value in sorted(method.keywords.items())}


def prepare(method: functools.partial[Tensor], models: Models) -> Prepared | None:
    """Run the preparation a method names with the hyper-parameters it asks for, if it names one."""
    preparation = _preparation(method)
    if preparation is None:
        return None
    keys = sorted(_keyword_only(preparation))
    return preparation(models, **{key: method.keywords[key] for key in keys})


def is_prepared(method: functools.partial[Tensor]) -> bool:
    """Whether a method passes over the models before its walk."""
    return _preparation(method) is not None


def takes_any_shape(method: functools.partial[Tensor]) -> bool:
    """Whether a method's preparation takes sources of other names and shapes than the pivot's."""
    return bool(getattr(method.func, "any_shape", False))


def _preparation(method: functools.partial[Tensor]) -> Preparation | None:
    """Return the preparation a method names with ``prepared_by``, if any."""
    return getattr(method.func, "preparation", None)


def _keyword_only(function: Callable[..., object]) -> set[str]:
    """Return the names of a function's keyword-only parameters."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _plain(key: str, value: object) -> object:
    """Return a value as JSON would give it back."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(f"{key}.{k}", v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [_plain(key, item) for item in value]
    raise ValueError(f"{key} must be a number, text, list or mapping, got {value!r}")
