"""Command line that repeats a recorded run."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from eval.records import Record
from seme.override_text import override_text

_IDENTITY = {"include": ["*"], "exclude": [], "tokens": "same"}
"""Entries of a run's identity that are entries of its configuration, and their usual values."""


def command_of(record: Record) -> str | None:
    """Return the command as it was typed, or for an older record one written from its entries.

    Such a one names pool and suite by their files, which must be what they were.

    Returns:
        None for an older record of a pool without a file.
    """
    if (command := record.origin.get("command")) is not None:
        return str(command)
    pool = record.models.pool
    if pool == "custom" or ":" in pool:
        return None
    is_merge = record.kind == "merge"
    settings = dict(record.settings)
    overrides = settings.pop("overrides", None)
    entries: dict[str, Any] = {
        "method": record.name if is_merge else "average",
        **{f"method.{key}": value for key, value in settings.items()},
        **({} if overrides is None else {"overrides": json.loads(overrides)}),
        "models": pool,
        "suite": "none" if record.suite is None else record.suite.name,
        **({} if record.seed == 0 else {"seed": record.seed}),
        **({} if record.dtype is None else {"dtype": record.dtype}),
        **(_unusual(record.provenance.get("identity", {})) if is_merge else {}),
    }
    limit = None if record.suite is None else record.suite.more.get("limit")
    entries |= {} if limit is None else {"suite.limit": limit}
    return shlex.join(
        ["python", "run.py", *(f"{key}={override_text(v)}" for key, v in entries.items())]
    )


def _unusual(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {k: identity[k] for k, usual in _IDENTITY.items() if identity.get(k, usual) != usual}
