"""Does the embedded benchmark tell merge methods apart? Computed from records and samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.results import Record, Sample, read_records, read_samples, run_folder
from eval.stats import Estimate

_EXPERT_SIGMAS, _GAP_SIGMAS, _SPREAD_SIGMAS = 5.0, 3.0, 3.0
_SMALLEST_GAP_SHARE = 0.4
_Values = dict[str, NDArray[np.float64]]
"""Task to one score per document, in the order of the documents' hashes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One thing the benchmark must show, what was found, and whether that is enough."""

    claim: str
    found: Estimate
    needed: str
    holds: bool

    @property
    def sigmas(self) -> float:
        """The finding in standard errors from zero."""
        return self.found.value / self.found.stderr if self.found.stderr else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A record and its per-document scores."""

    record: Record
    values: _Values


def read_runs(root: Path, *, suite: str) -> list[Run]:
    """Read every finished run of a suite under a results root."""
    return [
        Run(record=record, values=_values(read_samples(_folder(root, record))))
        for record in read_records(root)
        if record.status == "done" and record.suite and record.suite["name"] == suite
    ]


def best_lam(runs: Sequence[Run], experts: Mapping[str, str]) -> float:
    """The lam of task arithmetic that closes the largest share of the gap.

    Args:
        runs: Runs on the validation split, with task arithmetic at several lam.
        experts: Expert to the domain it was tuned for.
    """
    tried = [run for run in runs if run.record.name == "task_arithmetic"]
    best = max(tried, key=lambda run: gap_closed(run, runs, experts).value)
    return float(best.record.settings["lam"])


def gap_closed(merge: Run, runs: Sequence[Run], experts: Mapping[str, str]) -> Estimate:
    """Share of the gap from base to experts that a merge closes, over the experts' domains.

    The gap is the mean over domains of (expert - base) on the expert's own domain, the
    numerator the mean of (merge - base) there; its error is the ratio estimator's over paired
    documents. 0 is the base, 1 every expert at once.
    """
    base = _reference(runs, "base")
    terms: list[tuple[NDArray[np.float64], NDArray[np.float64], float]] = []
    for expert, domain in experts.items():
        tuned, tasks = _reference(runs, expert), _tasks_of(base, domain)
        for task in tasks:
            weight = 1 / (len(experts) * len(tasks))
            gain = merge.values[task] - base.values[task]
            terms.append((gain, tuned.values[task] - base.values[task], weight))
    gained = sum(weight * gain.mean() for gain, _, weight in terms)
    gap = sum(weight * whole.mean() for _, whole, weight in terms)
    share = gained / gap
    residuals = [weight * _stderr(gain - share * whole) for gain, whole, weight in terms]
    return Estimate(value=float(share), stderr=math.hypot(*residuals) / abs(gap))


def claims(
    runs: Sequence[Run],
    experts: Mapping[str, str],
    *,
    lam: float,
    default_lams: Mapping[str, float | None],
) -> list[Claim]:
    """What the benchmark must show, judged on the test split.

    Args:
        runs: Runs on the test split: references, the methods at their defaults, and task
            arithmetic at ``lam``.
        experts: Expert to the domain it was tuned for.
        lam: Scale of task arithmetic chosen on the validation split.
        default_lams: The methods to rank, each with its default lam; None for a method that
            has none.
    """
    base = _reference(runs, "base")
    found = [_expert_claim(_reference(runs, e), base, domain) for e, domain in experts.items()]
    chosen = _merge(runs, "task_arithmetic", lam)
    closed = gap_closed(chosen, runs, experts)
    found.append(
        Claim(
            claim=f"share of the gap closed by task arithmetic, lam {lam:g} from validation",
            found=closed,
            needed=f">= {_SMALLEST_GAP_SHARE:.0%} and > {_GAP_SIGMAS:g} standard errors",
            holds=closed.value >= max(_SMALLEST_GAP_SHARE, _GAP_SIGMAS * closed.stderr),
        )
    )
    merges = [_merge(runs, method, default) for method, default in default_lams.items()]
    ranked = sorted(merges, key=lambda run: _mean(run.values))
    worst, best = ranked[0], ranked[-1]
    spread = _difference(best, worst, list(best.values))
    found.append(
        Claim(
            claim=f"best method ({best.record.name}) - worst ({worst.record.name}), all tasks",
            found=spread,
            needed=f"> {_SPREAD_SIGMAS:g} standard errors",
            holds=spread.value > _SPREAD_SIGMAS * spread.stderr,
        )
    )
    return found


def _expert_claim(expert: Run, base: Run, domain: str) -> Claim:
    gain = _difference(expert, base, _tasks_of(base, domain))
    return Claim(
        claim=f"{expert.record.name} - base on {domain}",
        found=gain,
        needed=f"> {_EXPERT_SIGMAS:g} standard errors",
        holds=gain.value > _EXPERT_SIGMAS * gain.stderr,
    )


def _difference(first: Run, second: Run, tasks: Sequence[str]) -> Estimate:
    """Mean over tasks of the paired difference."""
    differences = [first.values[task] - second.values[task] for task in tasks]
    return Estimate(
        value=float(np.mean([d.mean() for d in differences])),
        stderr=math.hypot(*(_stderr(d) for d in differences)) / len(tasks),
    )


def _reference(runs: Sequence[Run], name: str) -> Run:
    return next(r for r in runs if r.record.kind == "reference" and r.record.name == name)


def _merge(runs: Sequence[Run], method: str, lam: float | None) -> Run:
    merges = (run for run in runs if run.record.kind == "merge" and run.record.name == method)
    return next(run for run in merges if run.record.settings.get("lam") == lam)


def _tasks_of(run: Run, domain: str) -> list[str]:
    return [task for task, its_domain in run.record.domains.items() if its_domain == domain]


def _values(samples: Mapping[str, Sequence[Sample]]) -> _Values:
    return {
        task: np.array([s.value for s in sorted(rows, key=lambda s: (s.doc_hash, s.doc_id))])
        for task, rows in samples.items()
    }


def _mean(values: _Values) -> float:
    return float(np.mean([v.mean() for v in values.values()]))


def _stderr(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _folder(root: Path, record: Record) -> Path:
    return run_folder(root, record.name, record.fingerprint)
