"""Scores of several runs on the same documents, matched by what the documents hold."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.records import Record, Sample
from eval.statistics.comparability import check_comparable

Array = NDArray[np.float64]

_BITS_PER_BYTE = "bits_per_byte"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRun:
    """A record and the samples behind its scores."""

    record: Record
    samples: Mapping[str, Sequence[Sample]]
    """Task name to samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedTask:
    """What several runs reached on each document of one task.

    A run's score is its total over its size, summed over documents: the mean of a per-document
    metric, or 2 ** -bits_per_byte. Copies of a document are one document of their joint size.
    """

    totals: Array
    """Summed metric, or bits; shape (n_runs, n_documents)."""
    sizes: Array
    """Number of copies, or bytes; shape (n_documents,), all positive."""
    is_bits: bool

    def scores(self, totals: Array, sizes: Array) -> Array:
        """Turn sums over documents into scores in [0, 1], elementwise."""
        ratios = totals / sizes
        return np.exp2(-ratios) if self.is_bits else ratios


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """Task scores of several runs, once or once per resample."""

    values: Array
    """Fractions; shape (..., n_runs, n_tasks)."""
    runs: tuple[str, ...]
    domains: Mapping[str, str]
    """Task to domain, in the order of the last axis."""

    def run(self, name: str) -> Array:
        """Scores of one run, shape (..., n_tasks).

        Raises:
            ValueError: If the table has no such run.
        """
        if name not in self.runs:
            raise ValueError(f"runs are {sorted(self.runs)}, got {name!r}")
        return self.values[..., self.runs.index(name), :]

    def tasks_of(self, domain: str) -> tuple[str, ...]:
        """Names of a domain's tasks.

        Raises:
            ValueError: If no task has this domain.
        """
        found = tuple(task for task, its_domain in self.domains.items() if its_domain == domain)
        if not found:
            raise ValueError(
                f"domains are {sorted(set(self.domains.values()))}, got {domain!r}"
            )
        return found

    def task(self, run: str, task: str) -> Array:
        """Scores of one run on one task, shape (...)."""
        return self.run(run)[..., list(self.domains).index(task)]

    def domain(self, run: str, domain: str) -> Array:
        """Mean of one run over a domain's tasks, shape (...)."""
        return mean_of([self.task(run, task) for task in self.tasks_of(domain)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Several runs on one suite, document by document."""

    runs: tuple[str, ...]
    domains: Mapping[str, str]
    """Task to domain, in the suite's order."""
    tasks: Mapping[str, MatchedTask]

    def observed(self) -> ScoreTable:
        """The scores themselves, shape (n_runs, n_tasks): those of the records."""
        scores = [t.scores(t.totals.sum(axis=1), t.sizes.sum()) for t in self.tasks.values()]
        return ScoreTable(
            values=np.stack(scores, axis=-1), runs=self.runs, domains=self.domains
        )


def match(runs: Mapping[str, ScoredRun]) -> Panel:
    """Line up the samples of several runs by the content of their documents.

    Args:
        runs: Label to run, at least one; all finished on the same suite.

    Returns:
        The runs in the order given; documents in the order of their hashes.

    Raises:
        ValueError: If the runs were evaluated differently, lack a task, saw other documents,
            or have samples that are not those of their scores; names the run and the task.
    """
    if not runs:
        raise ValueError("matching needs at least one run, got none")
    check_comparable(run.record for run in runs.values())
    first = next(iter(runs.values())).record
    for label, run in runs.items():
        if lacking := sorted(first.domains.keys() - (run.record.scores.keys() & run.samples)):
            raise ValueError(f"{label} has no score or no samples of the tasks {lacking}")
        check_samples(run, label)
    domains = {task: first.domains[task] for task in first.scores}
    tasks = {task: _matched_task(task, runs) for task in domains}
    return Panel(runs=tuple(runs), domains=domains, tasks=tasks)


def mean_of(values: Sequence[Array]) -> Array:
    """Elementwise mean of equally shaped arrays, at least one."""
    total: Array = np.mean(np.stack(values), axis=0)
    return total


def check_samples(run: ScoredRun, label: str) -> None:
    """Refuse samples that are not those behind a record's scores.

    Args:
        run: A finished run; tasks without a score are passed over.
        label: What an error calls the run.

    Raises:
        ValueError: If a task has no samples, hardly any, or samples that do not give its
            recorded score; names the task.
    """
    for task, score in run.record.scores.items():
        totals, sizes = _columns(run.samples.get(task, ()), is_bits=_is_bits(run, task))
        if len(sizes) < 2:
            raise ValueError(
                f"{task} needs at least 2 different documents, got {len(sizes)} of {label}"
            )
        matched = MatchedTask(totals=totals[None], sizes=sizes, is_bits=_is_bits(run, task))
        found = float(matched.scores(totals.sum(), sizes.sum()))
        if not math.isclose(found, score.value, rel_tol=1e-9, abs_tol=1e-12):
            raise ValueError(
                f"{task}: the samples of {label} must give its recorded score {score.value}, "
                f"they give {found}; they are of another run, run it again"
            )


def documents_of(run: ScoredRun) -> dict[str, str]:
    """Task to a hash of its documents, of how often each was seen and, if it counts, its bytes.

    Two runs can be matched where these are equal.
    """
    found = {}
    for task in run.record.scores:
        seen = [
            f"{s.doc_hash} {s.n_bytes if _is_bits(run, task) else 1}" for s in run.samples[task]
        ]
        found[task] = hashlib.sha256("\n".join(sorted(seen)).encode()).hexdigest()
    return found


def _matched_task(task: str, runs: Mapping[str, ScoredRun]) -> MatchedTask:
    """Line up one task's samples."""
    labels = list(runs)
    samples = {label: runs[label].samples[task] for label in labels}
    _check_documents(task, samples)
    is_bits = _is_bits(runs[labels[0]], task)
    columns = {label: _columns(found, is_bits=is_bits) for label, found in samples.items()}
    sizes = columns[labels[0]][1]
    for label, (_, its_sizes) in columns.items():
        if not np.array_equal(its_sizes, sizes):
            raise ValueError(
                f"{task}: {label} and {labels[0]} count other bytes in the same documents"
            )
    totals = np.stack([columns[label][0] for label in labels])
    return MatchedTask(totals=totals, sizes=sizes, is_bits=is_bits)


def _is_bits(run: ScoredRun, task: str) -> bool:
    return run.record.scores[task].raw_metric == _BITS_PER_BYTE


def _check_documents(task: str, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Refuse runs that did not see the same documents, each as often."""
    seen = {label: Counter(s.doc_hash for s in found) for label, found in samples.items()}
    first, expected = next(iter(seen.items()))
    for label, found in seen.items():
        if found != expected:
            raise ValueError(
                f"{task}: runs must have seen the same documents; "
                f"{(expected - found).total()} are only in {first} and "
                f"{(found - expected).total()} only in {label}"
            )


def _columns(samples: Sequence[Sample], *, is_bits: bool) -> tuple[Array, Array]:
    """Totals and sizes of one run, one entry per different document, in order of hash."""
    hashes, place = np.unique([s.doc_hash for s in samples], return_inverse=True)
    totals, sizes = np.zeros(len(hashes)), np.zeros(len(hashes))
    np.add.at(totals, place, [_bits(s) if is_bits else s.value for s in samples])
    np.add.at(sizes, place, [_bytes(s) if is_bits else 1 for s in samples])
    return totals, sizes


def _bits(sample: Sample) -> float:
    if sample.loglikelihood is None:
        raise ValueError(f"document {sample.doc_hash} of a rolling task has no loglikelihood")
    return -sample.loglikelihood / math.log(2)


def _bytes(sample: Sample) -> int:
    if not sample.n_bytes:
        raise ValueError(f"document {sample.doc_hash} of a rolling task has no bytes")
    return sample.n_bytes
