"""What the JSON of a record and of a sample must look like; errors name the entry."""

from collections.abc import Mapping
from typing import Any

SCHEMA_VERSION = 1

_Kinds = tuple[type, ...]
_Entries = Mapping[str, _Kinds]
"""Key to the types its value may have."""

_TEXT: _Kinds = (str,)
_COUNT: _Kinds = (int,)
_NUMBER: _Kinds = (int, float)
_OBJECT: _Kinds = (dict,)
_LIST: _Kinds = (list,)
_NULL: _Kinds = (type(None),)
_NAMES = {
    str: "a text", int: "a whole number", float: "a number", dict: "an object",
    list: "a list", bool: "true or false", type(None): "null",
}  # fmt: skip

_RECORD: _Entries = {
    "schema_version": _COUNT, "fingerprint": _TEXT, "kind": _TEXT, "status": _TEXT,
    "name": _TEXT, "settings": _OBJECT, "models": _OBJECT, "suite": _OBJECT + _NULL,
    "seed": _COUNT, "dtype": _TEXT + _NULL, "scores": _LIST, "domains": _OBJECT,
    "merge_cost": _OBJECT + _NULL, "evaluation_cost": _OBJECT + _NULL, "merge": _OBJECT,
    "error": _TEXT + _NULL, "provenance": _OBJECT, "started_at": _TEXT,
    "seconds_total": _NUMBER,
}  # fmt: skip
_SCORE: _Entries = {
    "task": _TEXT, "value": _NUMBER, "stderr": _NUMBER, "n": _COUNT, "raw": _NUMBER,
    "raw_metric": _TEXT, "higher_is_better": (bool,),
}  # fmt: skip
_COST: _Entries = {
    "seconds": _NUMBER, "peak_rss_bytes": _COUNT, "base_rss_bytes": _COUNT,
    "peak_anon_bytes": _COUNT + _NULL, "peak_gpu_bytes": _COUNT + _NULL, "source": _TEXT,
}  # fmt: skip
_MODELS: _Entries = {"pool": _TEXT, "pivot": _OBJECT, "sources": _LIST, "references": _LIST}
_MODEL: _Entries = {"name": _TEXT, "content_hash": _TEXT}
_SUITE: _Entries = {
    "name": _TEXT, "split": _TEXT + _NULL, "fingerprint": _TEXT, "held_out": _LIST,
}  # fmt: skip
_SAMPLE: _Entries = {"task": _TEXT, "doc_id": _COUNT, "doc_hash": _TEXT, "value": _NUMBER}


def check_record(found: Any) -> None:  # noqa: ANN401 (any JSON)
    """Check the parsed JSON of a record: version, keys, and the type of every entry.

    Raises:
        ValueError: If it is not that of a record of this schema; names the entry, what was
            expected and what came.
    """
    if isinstance(found, dict) and found.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version must be {SCHEMA_VERSION}, got {found.get('schema_version')!r}"
        )
    _check(found, _RECORD, "", complete=True)
    _check(found["models"], _MODELS, "models.")
    _check(found["models"]["pivot"], _MODEL, "models.pivot.")
    for role in ("sources", "references"):
        for i, model in enumerate(found["models"][role]):
            _check(model, _MODEL, f"models.{role}.{i}.")
    if found["suite"] is not None:
        _check(found["suite"], _SUITE, "suite.")
    for cost in ("merge_cost", "evaluation_cost"):
        if found[cost] is not None:
            _check(found[cost], _COST, f"{cost}.", complete=True)
    _check_scores(found["scores"], found["domains"])


def check_sample(found: Any) -> None:  # noqa: ANN401 (any JSON)
    """Check the parsed JSON of a sample.

    Raises:
        ValueError: If an entry is missing or of another type; names it.
    """
    _check(found, _SAMPLE, "")


def _check_scores(scores: list[Any], domains: Mapping[str, Any]) -> None:
    """Refuse tasks that stand twice or have no domain, beside scores of another shape."""
    for i, score in enumerate(scores):
        _check(score, _SCORE, f"scores.{i}.", complete=True)
    tasks = [score["task"] for score in scores]
    if twice := sorted({task for task in tasks if tasks.count(task) > 1}):
        raise ValueError(f"scores must name every task once, they have {twice} twice")
    if homeless := sorted(set(tasks) - domains.keys()):
        raise ValueError(f"domains must name the tasks of all scores, they lack {homeless}")
    _check(domains, dict.fromkeys(domains, _TEXT), "domains.")


def _check(found: Any, expected: _Entries, where: str, *, complete: bool = False) -> None:  # noqa: ANN401
    """Check keys and types of an object; ``complete``: it has no other keys."""
    if not isinstance(found, dict):
        place = f"{where.rstrip('.')} must be" if where else "expected"
        raise ValueError(f"{place} an object, got {_named(type(found))}")
    unknown = sorted(found.keys() - expected.keys()) if complete else []
    missing = sorted(expected.keys() - found.keys())
    if unknown or missing:
        place = f"{where.rstrip('.')}: " if where else ""
        raise ValueError(f"{place}unknown keys {unknown}, missing keys {missing}")
    for key, kinds in expected.items():
        if type(found[key]) not in kinds:
            names = [_named(kind) for kind in kinds if kinds != _NUMBER or kind is float]
            raise ValueError(
                f"{where}{key} must be {' or '.join(names)}, got {found[key]!r:.60}"
            )


def _named(kind: type) -> str:
    return _NAMES.get(kind, kind.__name__)
