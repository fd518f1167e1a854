"""Check that the embedded benchmark tells merge methods apart: run what it takes, print a table.

python -m scripts.build_zoo --check
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from eval.records import atomic_write
from eval.statistics.samples import Run
from scripts.zoo.material import experts_of, read_recipe
from scripts.zoo.separation import Claim, best_lam, claims, read_runs

ROOT = Path(__file__).resolve().parents[2]
_METHODS = ("average", "task_arithmetic", "ties", "dare", "seme")
_LAMS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def check(output: str, console: Console) -> bool:
    """Choose lam on the validation split, judge on the test split, print and write the table.

    Args:
        output: Results root of the runs, relative to the repository; finished ones are kept.
        console: Where the table goes.

    Returns:
        Whether every claim holds.
    """
    experts = experts_of(read_recipe())
    tried = ",".join(f"{lam:g}" for lam in _LAMS)
    _sweep(output, "suite=zoo_validation", "method=task_arithmetic", f"method.lam={tried}")
    lam = best_lam(read_runs(ROOT / output, suite="zoo_validation"), experts)
    _sweep(output, "suite=zoo", f"method={','.join(_METHODS)}")
    _sweep(output, "suite=zoo", "method=task_arithmetic", f"method.lam={lam:g}")
    runs = [run for run in read_runs(ROOT / output, suite="zoo") if _at_default_tau(run)]
    default_lams = {method: _default_lam(method) for method in _METHODS}
    found = claims(runs, experts, lam=lam, default_lams=default_lams)
    console.print(_table(found))
    atomic_write(ROOT / output / "check.md", _markdown(found).encode())
    return all(claim.holds for claim in found)


def _sweep(output: str, *overrides: str) -> None:
    """Run a sweep the way a user would; finished cells are skipped."""
    command = [sys.executable, "run.py", "-m", "models=zoo", "tracker=none", f"output={output}"]
    subprocess.run([*command, *overrides], cwd=ROOT, check=True)


def _at_default_tau(run: Run) -> bool:
    """Whether a run keeps the default share; true of what keeps no share."""
    settings, tau = run.record.settings, _read("config.yaml")["tau"]
    return all(settings.get(key, tau) == tau for key in ("tau", "density"))


def _default_lam(method: str) -> float | None:
    lam: float | None = _read(f"method/{method}.yaml").get("lam")
    return lam


def _read(name: str) -> dict[str, Any]:
    """A configuration file, interpolations left as they are."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "conf" / name).read_text(encoding="utf-8"))
    return found


def _table(found: list[Claim]) -> Table:
    table = Table(title="The embedded benchmark, test split", title_justify="left")
    for column in ("claim", "found", "standard errors", "needed", ""):
        table.add_column(column)
    for claim in found:
        table.add_row(*_cells(claim))
    return table


def _markdown(found: list[Claim]) -> str:
    rows = ["| " + " | ".join(_cells(claim)) + " |" for claim in found]
    return "\n".join(
        ["| claim | found | standard errors | needed | |", "|---|---|---|---|---|", *rows, ""]
    )


def _cells(claim: Claim) -> tuple[str, ...]:
    found = f"{100 * claim.found.value:.1f} ± {100 * claim.found.stderr:.1f} %"
    verdict = "" if not claim.needed else "holds" if claim.holds else "FAILS"
    return claim.claim, found, f"{claim.sigmas:.1f}", claim.needed, verdict
