"""Comparable records, and settings chosen without the test split."""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from eval.records import Record
from eval.schema import to_json
from eval.statistics.scores import overall_mean
from eval.tables import leaves

_VALIDATION = "validation"
PRECISION = "precision"
"""The fact of a contract that may differ between runs with one fingerprint of the suite."""

CPU_PRECISION = "float32"

_SAME_MEAN = 1e-12
"""Means closer than this differ by rounding only."""


def contract(record: Record) -> dict[str, Any]:
    """Everything two records must share for their scores to be comparable.

    That is all the record says of its suite: limit, lm-eval's version, and of every task shots,
    metric, filter and kind, in records that state them; a fingerprint of all this and of the
    content of the task files in every record. Besides, each task's domain, metric and number of
    documents, and the precision of the evaluation: float32 on the CPU, the checkpoint's own
    elsewhere. Seeds are no part of it.

    Returns:
        Fact to value, flat: ``suite.split``, ``tasks.<task>.documents`` and the like.

    Raises:
        ValueError: If the run was not evaluated.
    """
    if record.suite is None:
        raise ValueError(f"{_label(record)} was not evaluated: it has no score to compare")
    suite = dict(leaves(to_json(record.suite)))
    facts = {f"suite.{path}": value for path, value in suite.items() if path != "held_out"}
    facts |= {f"tasks.{task}.domain": domain for task, domain in record.domains.items()}
    for task, score in record.scores.items():
        facts |= {
            f"tasks.{task}.metric": score.raw_metric,
            f"tasks.{task}.documents": score.n,
        }
    used = precision(record)
    return facts if used is None else {**facts, PRECISION: used}


def precision(record: Record) -> str | None:
    """Precision of a record's evaluation: float32 on the CPU, the model's own dtype elsewhere.

    None if it was not evaluated.
    """
    cost = record.evaluation_cost
    if cost is None:
        return None
    return CPU_PRECISION if cost.peak_gpu_bytes is None else record.dtype or "the checkpoint's"


def check_comparable(records: Iterable[Record]) -> None:
    """Refuse records that were not evaluated under one contract.

    Facts that only one of two records states are not held against them: a failed run has no
    number of documents. The suite's fingerprint is always stated.

    Raises:
        ValueError: If two differ; names both and every fact they differ in.
    """
    seen: dict[str, tuple[Any, Record]] = {}
    for record in records:
        facts = contract(record)
        differing = [fact for fact in facts if fact in seen and seen[fact][0] != facts[fact]]
        if differing:
            other = seen[differing[0]][1]
            named = "; ".join(f"{f} is {seen[f][0]!r} and {facts[f]!r}" for f in differing)
            raise ValueError(
                f"{_label(other)} and {_label(record)} cannot stand in one table: {named}; "
                "evaluate both with the same suite"
            )
        for fact, value in facts.items():
            seen.setdefault(fact, (value, record))


def best_setting(records: Iterable[Record], *, method: str) -> dict[str, Any]:
    """Choose a method's hyper-parameters by their mean on the validation split.

    The mean is the overall one (within a domain, then across), averaged over the seeds of a
    setting. Of equal settings the simplest wins: most entries null, then the lowest values in
    the order of the names.

    Args:
        records: Validation runs of one set of models; other methods, unmerged models and
            failed runs among them are passed over.
        method: Name of the method.

    Returns:
        The chosen settings.

    Raises:
        ValueError: If a run is not of the validation split, no run of the method is done, or
            they are not comparable.
    """
    tried = [r for r in records if _is_result(r) and r.name == method]
    if not tried:
        raise ValueError(f"no finished run of {method}: run its settings on validation first")
    if other := [_label(record) for record in tried if _split(record) != _VALIDATION]:
        raise ValueError(f"settings are chosen on the split {_VALIDATION!r}, got runs {other}")
    if len({record.models.content for record in tried}) > 1:
        raise ValueError(f"the runs of {method} must merge one set of models, got several")
    check_comparable(tried)
    runs = defaultdict[Hashable, list[Record]](list)
    for record in tried:
        runs[_frozen(record.settings)].append(record)
    means = {key: _mean_over_seeds(repeated) for key, repeated in runs.items()}
    largest = max(means.values())
    best = [
        runs[key][0].settings for key, mean in means.items() if mean >= largest - _SAME_MEAN
    ]
    simplest = min(best, key=_simplicity)
    return dict(simplest)


def tuned_on_test(records: Sequence[Record]) -> dict[str, bool]:
    """Mark every row that is one of several settings of its method on the test split.

    A merge is marked if its method was scored outside the validation split with several
    settings, on the same models and tasks, and this setting is not the one that
    ``best_setting`` chooses from the validation runs of these models and tasks. A marked row
    must not be reported as what the method reaches: picking it is picking by the test split.
    A method with one setting there is never marked, nor is an unmerged model; a default that
    beside the chosen setting is. Validation runs of several contracts, such as another
    limit, choose a setting each, and none of these is marked.

    Args:
        records: Runs of all splits, in any order.

    Returns:
        Fingerprint to whether the row is marked, for every record.
    """
    validation = defaultdict[Hashable, list[Record]](list)
    test = defaultdict[Hashable, list[Record]](list)
    for record in filter(_is_result, records):
        side = validation if _split(record) == _VALIDATION else test
        side[_cell(record)].append(record)
    marked = dict.fromkeys((record.fingerprint for record in records), False)
    for cell, rows in test.items():
        if len({_frozen(row.settings) for row in rows}) > 1:
            chosen = _chosen(validation.get(cell, []), rows[0].name)
            marked |= {row.fingerprint: row.settings not in chosen for row in rows}
    return marked


def _chosen(tried: Iterable[Record], method: str) -> list[dict[str, Any]]:
    """The best setting of a method under every contract it was tried under."""
    groups = defaultdict[Hashable, list[Record]](list)
    for record in tried:
        if record.domains.keys() > record.scores.keys():
            continue  # without a mean it chooses nothing
        groups[record.suite and record.suite.fingerprint, precision(record)].append(record)
    return [best_setting(group, method=method) for group in groups.values()]


def _label(record: Record) -> str:
    return f"{record.name} {record.fingerprint[:12]}"


def _is_result(record: Record) -> bool:
    return record.kind == "merge" and record.status == "done" and record.suite is not None


def _split(record: Record) -> str | None:
    return None if record.suite is None else record.suite.split


def _cell(record: Record) -> Hashable:
    """Method, models and tasks: what the splits of one question share."""
    return record.name, record.models.content, _frozen(record.domains)


def _mean_over_seeds(records: Sequence[Record]) -> float:
    means = [overall_mean(record.scores, record.domains).value for record in records]
    return math.fsum(means) / len(means)


def _frozen(value: Any) -> Hashable:  # noqa: ANN401 (any JSON)
    """JSON as a key of a dictionary; equal numbers are equal keys, 1 and 1.0 too."""
    if isinstance(value, Mapping):
        return tuple((key, _frozen(value[key])) for key in sorted(value))
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _simplicity(settings: Mapping[str, Any]) -> tuple[int, list[tuple[int, float, str]]]:
    """Sorts settings: fewer that are not null first, then lower numbers, then texts."""
    ordered = [settings[name] for name in sorted(settings)]
    return sum(value is not None for value in ordered), [_rank(value) for value in ordered]


def _rank(value: Any) -> tuple[int, float, str]:  # noqa: ANN401 (any JSON)
    """Null before numbers before the rest."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return 2, 0.0, str(value)
