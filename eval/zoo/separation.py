"""Does the embedded benchmark tell merge methods apart? Computed from records and samples.

Experts and gaps are judged by bits per byte on the expert's own domain (as byte likelihood,
2 ** -bits), which every domain has and which resolves small changes; the accuracies of the
domains' other tasks are reported beside them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.results import Record, Sample, read_records, read_samples, run_folder
from eval.statistics.stats import Estimate

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
    """Empty where the finding is only reported."""
    holds: bool

    @property
    def sigmas(self) -> float:
        """The finding in standard errors from zero; NaN where nothing varies."""
        return self.found.value / self.found.stderr if self.found.stderr else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A record and its per-document scores."""

    record: Record
    values: _Values


def read_runs(root: Path, *, suite: str) -> list[Run]:
    """Read every finished run of a suite under a results root.

    Raises:
        ValueError: If two runs were not scored on the same documents.
    """
    runs, documents = [], dict[str, list[str]]()
    for record in read_records(root):
        if record.status == "done" and record.suite and record.suite["name"] == suite:
            samples = read_samples(run_folder(root, record.name, record.fingerprint))
            for task, rows in samples.items():
                hashes = sorted(row.doc_hash for row in rows)
                if documents.setdefault(task, hashes) != hashes:
                    raise ValueError(
                        f"{record.name} {record.fingerprint[:12]} was scored on other documents of "
                        f"{task} than the runs before it; remove the runs of the older items"
                    )
            runs.append(Run(record=record, values=_values(samples)))
    return runs


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

    The gap is the sum over domains of (expert - base) in byte likelihood on the expert's own
    domain, the numerator the sum of (merge - base) there; its error is the ratio estimator's over paired
    documents. 0 is the base, 1 every expert at once.
    """
    base = _reference(runs, "base")
    terms: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for expert, domain in experts.items():
        task = _bits_task(base, domain)
        whole = _reference(runs, expert).values[task] - base.values[task]
        terms.append((merge.values[task] - base.values[task], whole))
    gap = sum(whole.mean() for _, whole in terms)
    share = sum(gain.mean() for gain, _ in terms) / gap
    residuals = [_stderr(gain - share * whole) for gain, whole in terms]
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
    found = [
        _expert_claim(
            _reference(runs, expert), base, task, required=task == _bits_task(base, d)
        )
        for expert, d in experts.items()
        for task, domain in base.record.domains.items()
        if domain == d
    ]
    chosen = _merge(runs, "task_arithmetic", lam)
    closed = gap_closed(chosen, runs, experts)
    found.append(
        Claim(
            claim=f"share of the gap closed by task arithmetic, lam {lam:g} from validation",
            found=closed,
            needed=f">= {_SMALLEST_GAP_SHARE:.0%} and {_GAP_SIGMAS:g} standard errors",
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


def _expert_claim(expert: Run, base: Run, task: str, *, required: bool) -> Claim:
    gain = _difference(expert, base, [task])
    return Claim(
        claim=f"{expert.record.name} - base on {task}",
        found=gain,
        needed=f"> {_EXPERT_SIGMAS:g} standard errors" if required else "",
        holds=not required or gain.value > _EXPERT_SIGMAS * gain.stderr,
    )


def _difference(first: Run, second: Run, tasks: Sequence[str]) -> Estimate:
    """Mean over tasks of the paired difference."""
    differences = [first.values[task] - second.values[task] for task in tasks]
    return Estimate(
        value=float(np.mean([d.mean() for d in differences])),
        stderr=math.hypot(*(_stderr(d) for d in differences)) / len(tasks),
    )


def _reference(runs: Sequence[Run], name: str) -> Run:
    for run in runs:
        if run.record.kind == "reference" and run.record.name == name:
            return run
    raise ValueError(f"no finished run of the unmerged model {name}: run the sweep first")


def _merge(runs: Sequence[Run], method: str, lam: float | None) -> Run:
    for run in runs:
        record = run.record
        if (record.kind, record.name) == ("merge", method) and record.settings.get(
            "lam"
        ) == lam:
            return run
    raise ValueError(f"no finished run of {method} with lam {lam}: run the sweep first")


def _bits_task(run: Run, domain: str) -> str:
    """The domain's task that is measured in bits per byte."""
    scores = run.record.scores
    return next(
        task
        for task, its_domain in run.record.domains.items()
        if its_domain == domain and scores[task].raw_metric == "bits_per_byte"
    )


def _values(samples: Mapping[str, Sequence[Sample]]) -> _Values:
    return {
        task: np.array([s.value for s in sorted(rows, key=lambda s: (s.doc_hash, s.doc_id))])
        for task, rows in samples.items()
    }


def _mean(values: _Values) -> float:
    return float(np.mean([v.mean() for v in values.values()]))


def _stderr(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))
