"""Comparability of records, and selection of hyper-parameters on the validation split."""

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

from eval.evaluator import HF
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
    """Facts that two records must share for their scores to be comparable.

    The entries on the suite: limit, lm-eval's version, and per task shots, metric, filter and
    kind, in records that state them; in every record a fingerprint of these and of the content
    of the task files. The backend, lm-eval's Hugging Face model where none is stated. Each task's
    domain, metric and number of documents. The precision of the evaluation: the suite's, else
    float32 on the CPU, the checkpoint's own elsewhere. Seeds may differ.

    Returns:
        Fact to value, flat: ``suite.split``, ``tasks.<task>.documents`` and the like.

    Raises:
        ValueError: If the run was not evaluated.
    """
    if record.suite is None:
        raise ValueError(f"{_label(record)} was not evaluated: it has no score to compare")
    suite = dict(leaves(to_json(record.suite)))
    facts = {f"suite.{path}": value for path, value in suite.items() if path != "held_out"}
    facts.setdefault("suite.evaluator", HF)
    facts |= {f"tasks.{task}.domain": domain for task, domain in record.domains.items()}
    for task, score in record.scores.items():
        facts |= {
            f"tasks.{task}.metric": score.raw_metric,
            f"tasks.{task}.documents": score.n,
        }
    used = precision(record)
    return facts if used is None else {**facts, PRECISION: used}


def precision(record: Record) -> str | None:
    """Precision of the evaluation; None for a run without one.

    It is the suite's where it states one, else float32 on the CPU and the merge's elsewhere.
    """
    cost = record.evaluation_cost
    if cost is None:
        return None
    stated = None if record.suite is None else record.suite.more.get("dtype")
    if stated is not None:
        return str(stated)
    return CPU_PRECISION if cost.peak_gpu_bytes is None else record.dtype or "the checkpoint's"


def check_comparable(records: Iterable[Record]) -> None:
    """Refuse records that were not evaluated under one contract.

    A fact that only one of two records states is not compared: a failed run has no number of
    documents. Every record states the suite's fingerprint.

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
                f"{_label(other)} and {_label(record)} are not comparable: {named}; "
                "evaluate both with the same suite"
            )
        for fact, value in facts.items():
            seen.setdefault(fact, (value, record))


def best_setting(records: Iterable[Record], *, method: str) -> dict[str, Any]:
    """Select a method's hyper-parameters by their mean on the validation split.

    The mean is the overall one (within a domain, then across), averaged over the seeds of a
    setting. Of equal settings the simplest wins: most entries null, then the lowest values in
    the order of the names.

    Args:
        records: Validation runs of one set of models; other methods, unmerged models and
            failed runs are ignored.
        method: Name of the method.

    Returns:
        The selected settings.

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
    """Mark merges that are one of several settings of their method on the test split.

    A merge is marked if its method was scored outside the validation split with several
    settings, on the same models and tasks, and its setting is not the one that ``best_setting``
    selects from the validation runs of these models and tasks, or of the tasks without those
    of held-out domains. Its score must not be reported
    as an estimate of the method's: it would be selected on the test split. A method with one
    setting is never marked, nor is an unmerged model; a default beside the selected setting is.
    Validation runs of several contracts, such as another limit, select one setting each, and
    none of these is marked.

    Args:
        records: Runs of all splits, in any order.

    Returns:
        Fingerprint of every record to True if it is marked.
    """
    validation = defaultdict[Hashable, list[Record]](list)
    test = defaultdict[tuple[Hashable, Hashable], list[Record]](list)
    for record in filter(_is_result, records):
        if _split(record) == _VALIDATION:
            validation[_method_key(record)].append(record)
        else:
            test[_method_key(record), _frozen(record.domains)].append(record)
    marked = dict.fromkeys((record.fingerprint for record in records), False)
    for (key, _), group in test.items():
        if len({_frozen(record.settings) for record in group}) > 1:
            tried = [run for run in validation.get(key, []) if _chooses_for_run(run, group[0])]
            chosen = _chosen(tried, group[0].name)
            marked |= {record.fingerprint: record.settings not in chosen for record in group}
    return marked


def _chosen(tried: Iterable[Record], method: str) -> list[dict[str, Any]]:
    """The best setting of a method under every contract it was tried under."""
    groups = defaultdict[Hashable, list[Record]](list)
    for record in tried:
        if record.domains.keys() > record.scores.keys():
            continue  # incomplete: it has no mean
        groups[record.suite and record.suite.fingerprint, precision(record)].append(record)
    return [best_setting(group, method=method) for group in groups.values()]


def _label(record: Record) -> str:
    return f"{record.name} {record.fingerprint[:12]}"


def _is_result(record: Record) -> bool:
    scored = record.status == "done" and record.suite is not None and bool(record.domains)
    return record.kind == "merge" and scored


def _split(record: Record) -> str | None:
    return None if record.suite is None else record.suite.split


def chooses_for(
    validation: Mapping[str, str], test: Mapping[str, str], held_out: Collection[str]
) -> bool:
    """Return True if runs of the validation tasks choose settings for the test tasks.

    Args:
        validation: Task to domain, on the validation split.
        test: Task to domain, where the chosen settings are read.
        held_out: Domains that no source was tuned for: their tasks need not be in both.
    """
    lacking = test.keys() - validation.keys()
    return validation.items() <= test.items() and {test[task] for task in lacking} <= {
        *held_out
    }


def _chooses_for_run(run: Record, test: Record) -> bool:
    held_out = () if test.suite is None else test.suite.held_out
    return chooses_for(run.domains, test.domains, held_out)


def _method_key(record: Record) -> Hashable:
    """Method and models: equal for the validation and the test runs of one method."""
    return record.name, record.models.content


def _mean_over_seeds(records: Sequence[Record]) -> float:
    means = [
        overall_mean(record.scores, record.domains, record.groups).value for record in records
    ]
    return math.fsum(means) / len(means)


def _frozen(value: Any) -> Hashable:  # noqa: ANN401 (any JSON)
    """JSON as a key of a dictionary; equal numbers are equal keys, 1 and 1.0 too."""
    if isinstance(value, Mapping):
        return tuple((key, _frozen(value[key])) for key in sorted(value))
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _simplicity(settings: Mapping[str, Any]) -> tuple[int, list[tuple[int, float, str]]]:
    """Sort key of settings: fewest that are not null, then lowest numbers, then texts."""
    ordered = [settings[name] for name in sorted(settings)]
    return sum(value is not None for value in ordered), [_rank(value) for value in ordered]


def _rank(value: Any) -> tuple[int, float, str]:  # noqa: ANN401 (any JSON)
    """Sort key of a value: null, then numbers, then texts."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return 2, 0.0, str(value)
