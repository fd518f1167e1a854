"""Command line that makes a merge again, in Hydra's grammar of overrides, for a shell."""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_~./][\w./~*-]*")
_WORDS = {"null", "true", "false", "inf", "nan", "on", "off", "yes", "no"}
_USUAL: dict[str, Any] = {"include": ["*"], "tokens": "same", "max_shard_size": "5GB"}
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
    """Write a merge as one command line; it does not depend on the files in ``conf/models``.

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
        "models.pivot": _short(pivot),
        "models.sources": [*map(_short, sources)],
        **{k: v for k, v in settings.items() if v not in (None, [], {}, _USUAL.get(k))},
        "suite": "none",
        "merged_dir": merged_dir,
    }
    arguments = [f"{key}={written(value)}" for key, value in entries.items()]
    return shlex.join(["python", "run.py", *arguments])


def written(value: Any) -> str:  # noqa: ANN401 (plain values)
    """Write a value as Hydra reads it back."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.casefold() not in _WORDS:
            return value
        return '"' + re.sub(r'(\\*)"', r'\1\1\\"', re.sub(r"(\\+)$", r"\1\1", value)) + '"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def _leaves(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Yield the hyper-parameters by their dotted names."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.{key}")
        elif not key.startswith("_"):
            yield f"{path}.{key}", value


def _short(entry: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return a model's entry as its location where it has nothing else."""
    return entry["location"] if entry.keys() == {"location"} else entry
