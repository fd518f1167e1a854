"""Check that the embedded benchmark separates merge methods, from records and samples.

Experts and gaps are judged by bits per byte on the expert's own domain (as byte likelihood,
2 ** -bits), which every domain has and which resolves small changes; the accuracies of the
domains' other tasks are reported without a threshold. Standard errors are those of a paired
bootstrap over documents.
"""

import math
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from eval.results_folder import load_results
from eval.run_files import atomic_write
from eval.statistics.metrics import Metric, Roles, estimate, gap_closed, raw
from eval.statistics.resampling import RESAMPLES, SEED, bootstrap
from eval.statistics.samples import Array, Panel, Run, ScoreTable, match
from eval.statistics.scores import Estimate
from scripts.zoo.material import experts_of, read_recipe

_EXPERT_SIGMAS, _GAP_SIGMAS, _SPREAD_SIGMAS = 5.0, 3.0, 3.0
_SMALLEST_GAP_SHARE = 0.4
ROOT = Path(__file__).resolve().parents[2]
_METHODS = ("average", "task_arithmetic", "ties", "dare", "seme")
_LAMS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A statement about the benchmark, its estimate and its threshold."""

    claim: str
    estimate: Estimate
    needed: str
    """The threshold in words; empty if the estimate is only reported."""
    holds: bool

    @property
    def sigmas(self) -> float:
        """The estimate in standard errors from zero; NaN if nothing varies."""
        return self.estimate.value / self.estimate.stderr if self.estimate.stderr else math.nan


def read_runs(root: Path, *, suite: str) -> list[Run]:
    """Read every finished run of a suite under a results root.

    Raises:
        ValueError: If a record under the root is invalid; names every invalid one.
    """
    results = load_results(root)
    if results.problems:
        lines = "\n".join(f"{root / p.path} {p.message}" for p in results.problems)
        raise ValueError(f"refusing to judge the benchmark by invalid records:\n{lines}")
    return [
        run
        for run in results.runs
        if run.samples is not None
        and run.record.suite is not None
        and run.record.suite.name == suite
    ]


def best_lam(runs: Sequence[Run], experts: Mapping[str, str]) -> float:
    """Select the lam of task arithmetic that closes the largest share of the gap.

    Args:
        runs: Runs on the validation split, with task arithmetic at several lam.
        experts: Expert to the domain it was tuned for.
    """
    tried = [run for run in runs if run.record.name == "task_arithmetic"]
    table = _panel([*tried, *_references(runs, experts)]).observed()
    metric = partial(gap_closed, roles=_roles(runs, experts))
    table = _only(table, _own_tasks(runs, experts))
    best = max(tried, key=lambda run: float(metric(table, _label(run))))
    return float(best.record.settings["lam"])


def share_closed(merge: Run, runs: Sequence[Run], experts: Mapping[str, str]) -> Estimate:
    """Share of the gap from base to experts that a merge closes, in byte likelihood.

    The metric is ``eval.statistics.metrics.gap_closed`` on the bits of the experts' domains.
    """
    scores = _Scores.of([merge, *_references(runs, experts)])
    metric = partial(gap_closed, roles=_roles(runs, experts))
    return scores.only(_own_tasks(runs, experts)).estimate(metric, merge)


def claims(
    runs: Sequence[Run],
    experts: Mapping[str, str],
    *,
    lam: float,
    default_lams: Mapping[str, float | None],
) -> list[Claim]:
    """Estimate every claim on the test split.

    Args:
        runs: Runs on the test split: references, the methods at their defaults, and task
            arithmetic at ``lam``.
        experts: Expert to the domain it was tuned for.
        lam: Scale of task arithmetic chosen on the validation split.
        default_lams: The methods to rank, each with its default lam; None for a method that
            has none.
    """
    chosen = _merge(runs, "task_arithmetic", lam)
    merges = [_merge(runs, method, default) for method, default in default_lams.items()]
    scores = _Scores.of([*merges, *_references(runs, experts)])
    return [
        *_expert_claims(scores, runs, experts),
        _gap_claim(share_closed(chosen, runs, experts), lam),
        _spread_claim(scores, merges),
    ]


@dataclass(frozen=True, slots=True)
class _Scores:
    """The scores of several runs, and their resamples."""

    observed: ScoreTable
    resampled: ScoreTable

    @classmethod
    def of(cls, runs: Iterable[Run]) -> "_Scores":
        panel = _panel(runs)
        return cls(panel.observed(), bootstrap(panel, n_resamples=RESAMPLES, seed=SEED))

    def only(self, tasks: Sequence[str]) -> "_Scores":
        return _Scores(_only(self.observed, tasks), _only(self.resampled, tasks))

    def estimate(self, metric: Metric, run: Run) -> Estimate:
        tables = {"observed": self.observed, "resampled": self.resampled}
        return estimate(metric, _label(run), **tables)

    def difference(self, first: Run, second: Run) -> Estimate:
        """Mean of the first run minus that of the second, within a domain, then across."""

        def ahead(table: ScoreTable, run: str) -> Array:
            return raw(table, run) - raw(table, _label(second))

        return self.estimate(ahead, first)


def _expert_claims(
    scores: _Scores, runs: Sequence[Run], experts: Mapping[str, str]
) -> list[Claim]:
    """Claim that every expert beats the base on its bits; report its other tasks."""
    base = _reference(runs, "base")
    gains = []
    for name, domain in experts.items():
        for task in scores.observed.tasks_of(domain):
            gain = scores.only([task]).difference(_reference(runs, name), base)
            required = task == _bits_task(base, domain)
            holds = not required or gain.value > _EXPERT_SIGMAS * gain.stderr
            needed = f"> {_EXPERT_SIGMAS:g} standard errors" if required else ""
            claim = f"{name} - base on {task}"
            gains.append(Claim(claim=claim, estimate=gain, needed=needed, holds=holds))
    return gains


def _gap_claim(closed: Estimate, lam: float) -> Claim:
    return Claim(
        claim=f"share of the gap closed by task arithmetic, lam {lam:g} from validation",
        estimate=closed,
        needed=f">= {_SMALLEST_GAP_SHARE:.0%} and {_GAP_SIGMAS:g} standard errors",
        holds=closed.value >= max(_SMALLEST_GAP_SHARE, _GAP_SIGMAS * closed.stderr),
    )


def _spread_claim(scores: _Scores, merges: Sequence[Run]) -> Claim:
    ranked = sorted(merges, key=lambda run: float(raw(scores.observed, _label(run))))
    worst, best = ranked[0], ranked[-1]
    spread = scores.difference(best, worst)
    return Claim(
        claim=f"best method ({best.record.name}) - worst ({worst.record.name}), mean score",
        estimate=spread,
        needed=f"> {_SPREAD_SIGMAS:g} standard errors",
        holds=spread.value > _SPREAD_SIGMAS * spread.stderr,
    )


def _panel(runs: Iterable[Run]) -> Panel:
    return match({_label(run): run for run in runs})


def _only(table: ScoreTable, tasks: Sequence[str]) -> ScoreTable:
    """The columns of these tasks, in the order given."""
    columns = [list(table.domains).index(task) for task in tasks]
    domains = {task: table.domains[task] for task in tasks}
    return replace(table, values=table.values[..., columns], domains=domains)


def _roles(runs: Sequence[Run], experts: Mapping[str, str]) -> Roles:
    by_label = {_label(_reference(runs, name)): domain for name, domain in experts.items()}
    base = _label(_reference(runs, "base"))
    return Roles(base=base, experts=by_label, ceiling=None, held_out=())


def _references(runs: Sequence[Run], experts: Iterable[str]) -> list[Run]:
    return [_reference(runs, name) for name in ("base", *experts)]


def _own_tasks(runs: Sequence[Run], experts: Mapping[str, str]) -> list[str]:
    """The task in bits of every expert's domain."""
    base = _reference(runs, "base")
    return [_bits_task(base, domain) for domain in experts.values()]


def _label(run: Run) -> str:
    return run.record.fingerprint


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


def check(output: str, console: Console) -> bool:
    """Select lam on the validation split, test on the test split, print and write the table.

    Args:
        output: Results root of the runs, relative to the repository; finished ones are kept.
        console: Prints the table.

    Returns:
        True if every claim holds.
    """
    experts = experts_of(read_recipe())
    tried = ",".join(f"{lam:g}" for lam in _LAMS)
    _sweep(output, "suite=zoo_validation", "method=task_arithmetic", f"method.lam={tried}")
    lam = best_lam(read_runs(ROOT / output, suite="zoo_validation"), experts)
    _sweep(output, "suite=zoo", f"method={','.join(_METHODS)}")
    _sweep(output, "suite=zoo", "method=task_arithmetic", f"method.lam={lam:g}")
    runs = [run for run in read_runs(ROOT / output, suite="zoo") if _at_default_tau(run)]
    default_lams = {method: _default_lam(method) for method in _METHODS}
    tested = claims(runs, experts, lam=lam, default_lams=default_lams)
    console.print(_table(tested))
    atomic_write(ROOT / output / "check.md", _markdown(tested).encode())
    return all(claim.holds for claim in tested)


def _sweep(output: str, *overrides: str) -> None:
    """Run a sweep by ``run.py``; finished runs are skipped."""
    command = [sys.executable, "run.py", "-m", "models=zoo", "tracker=none", f"output={output}"]
    subprocess.run([*command, *overrides], cwd=ROOT, check=True)


def _at_default_tau(run: Run) -> bool:
    """True for a run at the default tau, and for one without tau or density."""
    settings, tau = run.record.settings, _read("config.yaml")["tau"]
    return all(settings.get(key, tau) == tau for key in ("tau", "density"))


def _default_lam(method: str) -> float | None:
    lam: float | None = _read(f"method/{method}.yaml").get("lam")
    return lam


def _read(name: str) -> dict[str, Any]:
    """Read a file of ``conf`` without resolving interpolations."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "conf" / name).read_text(encoding="utf-8"))
    return values


def _table(tested: list[Claim]) -> Table:
    table = Table(title="The embedded benchmark, test split", title_justify="left")
    for column in ("claim", "found", "standard errors", "needed", ""):
        table.add_column(column)
    for claim in tested:
        table.add_row(*_cells(claim))
    return table


def _markdown(tested: list[Claim]) -> str:
    rows = ["| " + " | ".join(_cells(claim)) + " |" for claim in tested]
    return "\n".join(
        ["| claim | found | standard errors | needed | |", "|---|---|---|---|---|", *rows, ""]
    )


def _cells(claim: Claim) -> tuple[str, ...]:
    percent = f"{100 * claim.estimate.value:.1f} ± {100 * claim.estimate.stderr:.1f} %"
    verdict = "" if not claim.needed else "holds" if claim.holds else "FAILS"
    return claim.claim, percent, f"{claim.sigmas:.1f}", claim.needed, verdict
