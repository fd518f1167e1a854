"""Command line that makes a merge again, in Hydra's grammar of overrides, for a shell."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from seme.override_text import model_value, override_text

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
        "models.pivot": model_value(pivot),
        "models.sources": [*map(model_value, sources)],
        **{k: v for k, v in settings.items() if v not in (None, [], {}, _USUAL.get(k))},
        "suite": "none",
        "merged_dir": merged_dir,
    }
    arguments = [f"{key}={override_text(value)}" for key, value in entries.items()]
    return shlex.join(["python", "run.py", *arguments])


def _leaves(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Yield the hyper-parameters by their dotted names."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.{key}")
        elif not key.startswith("_"):
            yield f"{path}.{key}", value
