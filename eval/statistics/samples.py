"""Samples of runs, and scores of several runs matched by document."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from eval.records import Record
from eval.sample_file import SampleTable
from eval.statistics.comparability import check_comparable
from eval.statistics.scores import Groups, columns_of

Array = NDArray[np.float64]

_BITS_PER_BYTE = "bits_per_byte"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Documents:
    """Distinct documents of a task, sorted by hash; shared by the runs that saw the same."""

    hashes: tuple[str, ...]
    counts: tuple[int, ...]
    """Copies of each document."""
    sizes: Array
    """Bytes, words or parts of a document, else 1, times its copies; shape (n_documents,)."""
    digest: str
    """Hash of all fields: runs with equal digests can be matched."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskSamples:
    """Results of a run on each document of one task; copies of a document are summed."""

    documents: Documents
    totals: Array
    """Summed metric, or bits; shape (n_documents,)."""
    is_bits: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """A record and the samples of its scores."""

    record: Record
    samples: Mapping[str, TaskSamples] | None
    """By task; None where none are on disk, or the run has no scores."""


def run_of(record: Record, tables: Mapping[str, SampleTable]) -> Run:
    """Join a finished record with its samples.

    Args:
        record: Tasks without a score are ignored.
        tables: From ``read_samples``.

    Raises:
        ValueError: If a task has no samples, hardly any, or samples that do not give its
            recorded score; names the task.
    """
    samples = {}
    for task, score in record.scores.items():
        if task not in tables:
            raise ValueError(f"{task} needs at least 2 different documents, got none")
        samples[task] = _task_samples(tables[task], in_bytes=score.raw_metric == _BITS_PER_BYTE)
        _check_score(task, score.value, samples[task])
    return Run(record=record, samples=samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedTask:
    """Results of several runs on each document of one task.

    A run's score is its total over its size, summed over documents: the mean of a per-document
    metric or over all parts, or 2 ** -bits per byte, word or answer. Copies of a document are one document of their joint size.
    """

    totals: Array
    """Summed metric, or bits; shape (n_runs, n_documents)."""
    sizes: Array
    """Number of copies, bytes, words or parts; shape (n_documents,), all positive."""
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
    groups: Groups = field(default_factory=dict)

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
        tasks = tuple(task for task, its_domain in self.domains.items() if its_domain == domain)
        if not tasks:
            raise ValueError(
                f"domains are {sorted(set(self.domains.values()))}, got {domain!r}"
            )
        return tasks

    def task(self, run: str, task: str) -> Array:
        """Scores of one run on one task, shape (...)."""
        return self.run(run)[..., list(self.domains).index(task)]

    def domain(self, run: str, domain: str) -> Array:
        """Mean of one run over a domain's tasks, each group counting once, shape (...)."""
        domains = dict.fromkeys(self.tasks_of(domain), domain)
        return mean_of(
            [
                sum_of([share * self.task(run, task) for task, share in shares.items()])
                for shares in columns_of(domains, self.groups).values()
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Several runs on one suite, document by document."""

    runs: tuple[str, ...]
    domains: Mapping[str, str]
    """Task to domain, in the suite's order."""
    tasks: Mapping[str, MatchedTask]
    groups: Groups = field(default_factory=dict)

    def on(self, domain: str) -> "Panel":
        """Return the panel of a domain's tasks alone.

        Raises:
            ValueError: If no task has this domain.
        """
        domains = {task: of for task, of in self.domains.items() if of == domain}
        if not domains:
            raise ValueError(
                f"domains are {sorted(set(self.domains.values()))}, got {domain!r}"
            )
        return replace(
            self,
            domains=domains,
            tasks={task: self.tasks[task] for task in domains},
            groups={g: of for g, of in self.groups.items() if of.keys() <= domains.keys()},
        )

    def observed(self) -> ScoreTable:
        """Scores of the records, shape (n_runs, n_tasks)."""
        scores = [t.scores(t.totals.sum(axis=1), t.sizes.sum()) for t in self.tasks.values()]
        return ScoreTable(
            values=np.stack(scores, axis=-1),
            runs=self.runs,
            domains=self.domains,
            groups=self.groups,
        )


def match(runs: Mapping[str, Run]) -> Panel:
    """Line up the samples of several runs by the content of their documents.

    Args:
        runs: Label to run, at least one; all finished on the same suite, with samples.

    Returns:
        The runs in the order given; documents in the order of their hashes.

    Raises:
        ValueError: If the runs were evaluated differently, lack a task, or saw other
            documents; names the run and the task.
    """
    if not runs:
        raise ValueError("matching needs at least one run, got none")
    check_comparable(run.record for run in runs.values())
    first = next(iter(runs.values())).record
    for label, run in runs.items():
        if lacking := sorted(first.domains.keys() - (run.samples or {}).keys()):
            raise ValueError(f"{label} has no score or no samples of the tasks {lacking}")
    domains = {task: first.domains[task] for task in first.scores}
    tasks = {
        task: _matched_task(
            task, {label: (run.samples or {})[task] for label, run in runs.items()}
        )
        for task in domains
    }
    return Panel(runs=tuple(runs), domains=domains, tasks=tasks, groups=first.groups)


def mean_of(values: Sequence[Array]) -> Array:
    """Elementwise mean of equally shaped arrays, at least one."""
    return sum_of(values) / len(values)


def sum_of(values: Sequence[Array]) -> Array:
    """Elementwise sum of equally shaped arrays, at least one."""
    first, *others = values
    return sum(others, start=first)


def _check_score(task: str, expected: float, samples: TaskSamples) -> None:
    """Check that samples give the recorded score."""
    sizes, totals = samples.documents.sizes, samples.totals
    if len(sizes) < 2:
        raise ValueError(f"{task} needs at least 2 different documents, got {len(sizes)}")
    matched = MatchedTask(totals=totals[None], sizes=sizes, is_bits=samples.is_bits)
    score = float(matched.scores(totals.sum(), sizes.sum()))
    if not math.isclose(score, expected, rel_tol=1e-9, abs_tol=1e-12):
        raise ValueError(
            f"{task}: the samples must give the recorded score {expected}, they give {score}; "
            "they are of another run, run it again"
        )


def _task_samples(table: SampleTable, *, in_bytes: bool) -> TaskSamples:
    """Add up the samples of equal documents."""
    is_bits = in_bytes or not np.isnan(table.loglikelihoods).all()
    sizes = _bytes(table) if in_bytes else _units(table)
    values = _bits(table) if is_bits else table.values * sizes
    documents, places = _documents(table.doc_hashes, sizes.tobytes())
    totals = _sums(places, values, len(documents.hashes))
    return TaskSamples(documents=documents, totals=totals, is_bits=is_bits)


@lru_cache(maxsize=256)
def _documents(doc_hashes: tuple[str, ...], sizes: bytes) -> tuple[Documents, NDArray[np.intp]]:
    """Return the distinct documents, and the index of every sample's document."""
    hashes, places, counts = np.unique(doc_hashes, return_inverse=True, return_counts=True)
    total = _sums(places, np.frombuffer(sizes), len(hashes))
    digest = hashlib.sha256(repr(hashes.tolist()).encode())
    digest.update(counts.tobytes() + total.tobytes())
    documents = Documents(
        hashes=tuple(hashes.tolist()),
        counts=tuple(counts.tolist()),
        sizes=total,
        digest=digest.hexdigest(),
    )
    return documents, places


def _sums(places: NDArray[np.intp], values: Array, n: int) -> Array:
    """Add up the values of each place."""
    sums: Array = np.bincount(places, weights=values, minlength=n).astype(np.float64)
    return sums


def _matched_task(task: str, samples: Mapping[str, TaskSamples]) -> MatchedTask:
    """Line up one task's samples of several runs."""
    label, first = next(iter(samples.items()))
    for other, its_samples in samples.items():
        _check_documents(task, (label, first.documents), (other, its_samples.documents))
    return MatchedTask(
        totals=np.stack([its_samples.totals for its_samples in samples.values()]),
        sizes=first.documents.sizes,
        is_bits=first.is_bits,
    )


def _check_documents(
    task: str, first: tuple[str, Documents], second: tuple[str, Documents]
) -> None:
    """Refuse runs that did not see the same documents, each as often."""
    if first[1].digest == second[1].digest:
        return
    seen, other = (
        Counter(dict(zip(d.hashes, d.counts, strict=True))) for _, d in (first, second)
    )
    if seen != other:
        raise ValueError(
            f"{task}: runs must have seen the same documents; {(seen - other).total()} are "
            f"only in {first[0]} and {(other - seen).total()} only in {second[0]}"
        )
    raise ValueError(
        f"{task}: {second[0]} and {first[0]} count other bytes, words or parts in the same documents"
    )


def _bits(table: SampleTable) -> Array:
    if lacking := [
        h for h, x in zip(table.doc_hashes, table.loglikelihoods, strict=True) if math.isnan(x)
    ]:
        raise ValueError(f"document {lacking[0]} of a rolling task has no loglikelihood")
    return -table.loglikelihoods / math.log(2)


def _units(table: SampleTable) -> Array:
    """Units of each document; 1 where no document states them."""
    if not table.n_units.any():
        return np.ones(len(table.values))
    if lacking := [h for h, n in zip(table.doc_hashes, table.n_units, strict=True) if not n]:
        raise ValueError(f"document {lacking[0]} of a task with units has no n_units")
    return table.n_units


def _bytes(table: SampleTable) -> Array:
    if lacking := [h for h, n in zip(table.doc_hashes, table.n_bytes, strict=True) if not n]:
        raise ValueError(f"document {lacking[0]} of a rolling task has no bytes")
    return table.n_bytes
