"""Command line, or Python call, that makes a merge again."""

import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from seme.override_text import model_value, override_text

_CALLING = "from seme import merge; "
_USUAL: dict[str, Any] = {
    "include": ["*"],
    "tokens": "same",
    "max_shard_size": "5GB",
    "merged_as": "model",
}
"""What conf/config.yaml has; entries that are null or empty there are left out as well."""


def merge_command(
    *,
    method: str,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    pivot: Mapping[str, Any],
    sources: list[Mapping[str, Any]],
    merged_dir: str,
) -> str:
    """Write a merge as one command line, in Hydra's grammar of overrides, for a shell.

    It does not depend on the files in ``conf/models``.

    Args:
        method: Stem of the method's file.
        config: Its hyper-parameters, with ``_target_``.
        settings: Entries that apply to all methods.
        pivot: Entry of the pool; with a commit of the Hub as its revision where it is known.
        sources: Entries of the pool, likewise.
        merged_dir: The folder to write.
    """
    entries = {
        "method": method,
        **dict(_leaves(config, "method")),
        "models": "custom",
        "models.pivot": model_value(pivot),
        "models.sources": [*map(model_value, sources)],
        **_unusual(settings),
        "suite": "none",
        "merged_dir": merged_dir,
    }
    arguments = [f"{key}={override_text(value)}" for key, value in entries.items()]
    return shlex.join(["python", "run.py", *arguments])


def merge_call(
    *,
    method: str,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    pivot: Mapping[str, Any],
    sources: list[Mapping[str, Any]],
    merged_dir: str,
) -> str:
    """Write a merge as a call of :func:`seme.merge`, one line of Python, from the same arguments.

    Relative folders start from where the call is made.
    """
    arguments = {
        "pivot": model_value(pivot),
        "sources": [*map(model_value, sources)],
        "out": merged_dir,
        **{key: value for key, value in config.items() if not key.startswith("_")},
        **_unusual(settings),
    }
    written = [repr(method), *(f"{key}={_literal(v)}" for key, v in arguments.items())]
    return f"{_CALLING}merge({', '.join(written)})"


def language_of(command: str) -> str:
    """Return what a command is written in, ``python`` or ``bash``."""
    return "python" if command.startswith(_CALLING) else "bash"


def _literal(value: Any) -> str:  # noqa: ANN401 (plain values)
    """Write a value as Python reads it back."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value)


def _unusual(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what conf/config.yaml has."""
    return {k: v for k, v in settings.items() if v not in (None, [], {}, _USUAL.get(k))}


def _leaves(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Yield the hyper-parameters by their dotted names."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.{key}")
        elif not key.startswith("_"):
            yield f"{path}.{key}", value
