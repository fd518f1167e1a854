"""Load a results folder: valid runs with their samples, and a list of problems."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.records import RECORD_NAME, Record, fingerprint_of, read_record, run_folder
from eval.sample_file import SAMPLES_NAME, read_samples
from eval.statistics.comparability import PRECISION, contract
from eval.statistics.samples import Run, run_of

_AGAIN = "run it again with force=true, or delete its folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An invalid file, or one that contradicts the others."""

    path: Path
    """Path of the file, relative to the results folder."""
    message: str
    """Sentence without its subject, the path: expected, got, remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The contents of a results folder."""

    runs: tuple[Run, ...]
    """Sorted by kind, name and fingerprint; one per fingerprint."""
    problems: tuple[Problem, ...]
    """Sorted by path. Their runs are excluded, except those that only lack a task."""

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(run.record for run in self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _LocatedRun:
    """A run and the path of its record."""

    path: Path
    """Path of the record, relative to the results folder."""
    run: Run

    @property
    def record(self) -> Record:
        return self.run.record

    @property
    def scored(self) -> bool:
        return is_scored(self.record)


def is_scored(record: Record) -> bool:
    """Check that a record has scores: it is done, and not only a merge."""
    return record.status == "done" and record.suite is not None


def load_results(root: Path, *, samples: bool = True) -> Results:
    """Read every record under a results folder with its samples, each once.

    Left out, and named as a problem, is a record that is damaged or of another schema, or whose
    samples are damaged or do not give its scores; every one of several finished records of one
    fingerprint that differ in their scores (the same scores twice are one record); and a
    record that was evaluated with different settings than most of its suite's fingerprint:
    other documents, more tasks, another metric. A finished record that lacks a task which at
    least half of its suite's records have is named and kept: it has no rank.

    Args:
        root: The results folder; may be absent.
        samples: Read the samples too; without them reading is fast, and means can be listed but
            not tested.
    """
    runs, problems = _readable(root, with_samples=samples)
    for select in (_one_of_a_fingerprint, _of_one_contract):
        runs, refused = select(runs)
        problems += refused
    problems += _lacking_tasks(runs)
    entries = sorted(runs, key=lambda r: (r.record.kind, r.record.name, r.record.fingerprint))
    return Results(
        runs=tuple(entry.run for entry in entries),
        problems=tuple(sorted(problems, key=lambda problem: (problem.path, problem.message))),
    )


def _readable(root: Path, *, with_samples: bool) -> tuple[list[_LocatedRun], list[Problem]]:
    """Read the runs whose own files are valid and consistent."""
    runs, problems = [], []
    for path in sorted(root.glob(f"runs/*/{RECORD_NAME}")):
        samples = path.with_name(SAMPLES_NAME)
        try:
            record = read_record(path)
            _check_identity(record)
        except ValueError as error:
            problems.append(_problem(path, root, error))
            continue
        run = Run(record=record, samples=None)
        try:
            if with_samples and is_scored(record) and samples.exists():
                run = run_of(record, read_samples(samples))
        except ValueError as error:
            problems.append(_problem(samples, root, error))
            continue
        runs.append(_LocatedRun(path=path.relative_to(root), run=run))
    return sorted(runs, key=_preference(root)), problems


def _check_identity(record: Record) -> None:
    """Refuse a record whose entries are not those that its fingerprint was made of."""
    if (identity := record.provenance.get("identity")) is None:  # of an older record
        return
    if not isinstance(identity, dict) or fingerprint_of(identity) != record.fingerprint:
        raise ValueError(f"provenance.identity must hash to the fingerprint; {_AGAIN}")
    pivot = record.models.pivot.content_hash
    stated = {
        "method": record.name,
        "hyper_parameters": record.settings,
        "seed": record.seed,
        "pivot": pivot,
        "sources": [source.content_hash for source in record.models.sources],
        "bases": [source.base_hash for source in record.models.sources],
        "reference": pivot,
        "suite": None if record.suite is None else record.suite.fingerprint,
    }
    if edited := [key for key, v in identity.items() if stated.get(key, v) != v]:
        raise ValueError(f"edited: {edited} must be as in provenance.identity; {_AGAIN}")


def _problem(path: Path, root: Path, error: ValueError) -> Problem:
    """Turn an error into a problem; errors of reading name the path themselves."""
    message = str(error)
    if not message.startswith(f"{path} "):
        message = f"cannot be used: {message}"
    return Problem(path=path.relative_to(root), message=message.removeprefix(f"{path} "))


def _preference(root: Path) -> Callable[[_LocatedRun], Any]:
    """Sort key by which the first run of a fingerprint is kept: done, own folder, samples."""

    def place(run: _LocatedRun) -> tuple[bool, bool, bool, Path]:
        own = run_folder(root, run.record.name, run.record.fingerprint).name
        elsewhere = run.path.parent.name != own
        return run.record.status != "done", elsewhere, run.run.samples is None, run.path

    return place


def _one_of_a_fingerprint(
    runs: Iterable[_LocatedRun],
) -> tuple[list[_LocatedRun], list[Problem]]:
    """Keep one run per fingerprint; none if its finished runs have different scores."""
    of_fingerprint = defaultdict[str, list[_LocatedRun]](list)
    for run in runs:
        of_fingerprint[run.record.fingerprint].append(run)
    kept, problems = [], []
    for first, *others in of_fingerprint.values():
        claims = [run for run in others if run.record.status == "done"]
        differing = [run for run in claims if _differences(first.record, run.record)]
        if not differing:
            kept.append(first)
        problems += [_contradiction(run, first) for run in differing]
        problems += [_contradiction(first, run) for run in differing[:1]]
    return kept, problems


def _differences(first: Record, second: Record) -> list[str]:
    """Describe the differences of two records' scores beyond rounding."""
    tasks = dict.fromkeys((*first.scores, *second.scores))
    return [
        f"{task} is {_value(first, task)} here and {_value(second, task)} there"
        for task in tasks
        if not _same(first, second, task)
    ]


def _same(first: Record, second: Record, task: str) -> bool:
    a, b = first.scores.get(task), second.scores.get(task)
    if a is None or b is None:
        return a is b
    close = math.isclose(a.value, b.value, rel_tol=1e-9, abs_tol=1e-12)
    return close and (a.n, a.raw_metric) == (b.n, b.raw_metric)


def _value(record: Record, task: str) -> str:
    score = record.scores.get(task)
    return "missing" if score is None else f"{score.value:.6g} over {score.n} documents"


def _contradiction(run: _LocatedRun, other: _LocatedRun) -> Problem:
    differences = _differences(run.record, other.record)
    more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
    return Problem(
        path=run.path,
        message=(
            f"and {other.path} claim the fingerprint {run.record.fingerprint[:12]} with "
            f"different scores: {differences[0]}{more}; delete the folder that is wrong"
        ),
    )


def _of_one_contract(runs: Iterable[_LocatedRun]) -> tuple[list[_LocatedRun], list[Problem]]:
    """Drop the runs that were evaluated with different settings than most of their suite."""
    kept, problems = [], []
    groups = _by_suite(runs)
    kept += groups.pop(None, [])
    for of_suite in groups.values():
        facts = [_facts(run) for run in of_suite]
        usual, expected = _usual(facts), _expected_tasks(of_suite)
        for run, of_run in zip(of_suite, facts, strict=True):
            differing = [
                f"{fact} is {value}, mostly {usual[fact]}"
                for fact, value in of_run.items()
                if value != usual[fact]
            ]
            extra = sorted(run.record.domains.keys() - expected)
            differing += [f"it has the tasks {extra}, most have not"] if extra else []
            if differing:
                problems.append(_otherwise(run, differing))
            else:
                kept.append(run)
    return kept, problems


def _otherwise(run: _LocatedRun, differing: Sequence[str]) -> Problem:
    more = f"; and {len(differing) - 3} facts more" if len(differing) > 3 else ""
    facts = f"{'; '.join(differing[:3])}{more}"
    message = "was evaluated with different settings than most runs of this suite"
    return Problem(path=run.path, message=f"{message}: {facts}; {_AGAIN}")


def _lacking_tasks(runs: Iterable[_LocatedRun]) -> list[Problem]:
    """Problems of finished runs that lack a task of their suite."""
    groups = _by_suite(runs)
    groups.pop(None, None)
    problems = []
    for of_suite in groups.values():
        expected = _expected_tasks(of_suite)
        for entry in of_suite:
            if lacking := sorted(expected - entry.record.scores.keys()):
                message = f"lacks scores of {lacking}, so it has no rank; {_AGAIN}"
                problems.append(Problem(path=entry.path, message=message))
    return problems


def _by_suite(runs: Iterable[_LocatedRun]) -> dict[str | None, list[_LocatedRun]]:
    """Group runs by their suite's fingerprint, earliest first; None for runs without scores."""
    groups = defaultdict[str | None, list[_LocatedRun]](list)
    for run in sorted(runs, key=lambda r: (r.record.started_at, r.record.fingerprint)):
        suite = run.record.suite if run.scored else None
        groups[None if suite is None else suite.fingerprint].append(run)
    return dict(groups)


def _facts(run: _LocatedRun) -> dict[str, str]:
    """Facts that runs of a suite must share, as texts, without the precision (own boards)."""
    facts = {key: value for key, value in contract(run.record).items() if key != PRECISION}
    for task, samples in (run.run.samples or {}).items():
        facts[f"tasks.{task}.contents"] = samples.documents.digest[:8]
    return {fact: json.dumps(value) for fact, value in facts.items()}


def _usual(facts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Fact to its most frequent value; of equally frequent ones the first."""
    values = defaultdict[str, Counter[str]](Counter)
    for of_run in facts:
        for fact, value in of_run.items():
            values[fact][value] += 1
    return {fact: counts.most_common(1)[0][0] for fact, counts in values.items()}


def _expected_tasks(runs: Sequence[_LocatedRun]) -> set[str]:
    """Tasks that at least half of the runs have."""
    counts = Counter(task for run in runs for task in run.record.domains)
    return {task for task, n in counts.items() if 2 * n >= len(runs)}
