"""Settings of runs as text, and what tells apart runs of equal settings."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval.records import Record
from eval.schema import to_json

_IDENTITY = ("include", "exclude", "code", "numbers")
"""Facts of a run's identity that are named only where rows could not be told apart without."""


def identity_facts(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Collect what tells apart runs of equal settings, such as two versions of edited code.

    Returns:
        Fingerprint of every run to the entries of ``_IDENTITY`` in which it differs from another
        run of its method, settings, seed and dtype.
    """
    alike: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        setting = [record.name, to_json(record.settings), record.seed, record.dtype]
        alike[json.dumps(setting)].append(record)
    facts = {}
    for group in alike.values():
        identities = [record.provenance.get("identity", {}) for record in group]
        for record, identity in zip(group, identities, strict=True):
            facts[record.fingerprint] = {
                key: str(value)[:6] if key == "code" else value
                for key, value in identity.items()
                if key in _IDENTITY and any(other.get(key) != value for other in identities)
            }
    return facts


def varies(records: Iterable[Record], key: str) -> bool:
    """Check that an entry of the records, such as ``seed``, has several values."""
    return len({getattr(record, key) for record in records}) > 1


def in_common(settings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings that have one value in all runs of a method, at least one run."""
    first, *others = settings
    return {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others)
    }


def settings_text(settings: Mapping[str, Any]) -> str:
    """Write settings as ``tau=0.1 lam=1``: last parts of dotted names, none that are null."""
    return " ".join(
        f"{key.rpartition('.')[2]}={_setting(value)}"
        for key, value in settings.items()
        if value is not None
    )


def _setting(value: Any) -> str:  # noqa: ANN401 (any JSON)
    if isinstance(value, list):
        return ",".join(map(_setting, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
