"""One run from one config, or a sweep with -m: merge, evaluate, record, track.

python run.py method=ties tau=0.2
python run.py -m method=seme,ties tau=0.1,0.2
"""

import gc

if __name__ == "__main__":
    gc.disable()  # imports make no garbage, but looking for it takes a tenth of their time

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from eval.conclusion import conclude, leave
from eval.meter import metered
from eval.records import Record, write_whole
from eval.runs import Cell, check_entries, described
from eval.suite import suite_from_config
from seme.alignment.diagnosis import source_table
from seme.binding import bind_method
from seme.engine import MergeReport
from seme.interface import CheckpointMismatchError
from seme.job import MergeJob, NamedModel, job_from_config
from seme.kernels.warmup import load
from seme.provenance import collect

ROOT = Path(__file__).resolve().parent
_log = logging.getLogger("run")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Run one cell; in a sweep a failed cell is recorded and the next one goes on."""
    hydra_config = HydraConfig.get()
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    folder = Path(hydra_config.runtime.output_dir)
    cell: dict[str, Any] = {"cell": " ".join(hydra_config.overrides.task), "error": None}
    try:
        names = {
            "method_name": hydra_config.runtime.choices["method"],
            "group": (folder.parent if sweeping else folder).name,
        }
        if config.plan:
            _plan(_plain(config), names["method_name"])
            return
        run_cell(_plain(config), **names)
    except Exception as caught:
        if not isinstance(caught, ValueError):  # not the user's: where it happened matters
            _log.exception("%s", cell["cell"])
        cell["error"] = described(caught)
        cell["refused"] = isinstance(caught, CheckpointMismatchError)
    write_whole(folder / "cell.json", json.dumps(cell).encode())
    if not sweeping:
        conclude(ROOT, config.output, [cell], merge_only=not config.suite.tasks)


class SweepEnd(Callback):
    """Build the leaderboard when a sweep ends, and exit with 1 if a cell failed."""

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        """Called by Hydra once, in the process that launched the cells."""
        paths = Path(config.hydra.sweep.dir).glob("*/cell.json")
        cells = [json.loads(path.read_text()) for path in sorted(paths, key=_job_number)]
        if config.plan:
            told = [f"error: {c['cell']}: {c['error']}" for c in cells if c["error"]]
            sys.exit("\n".join(told) or 0)
        conclude(ROOT, config.output, cells)


def _job_number(path: Path) -> int:
    return int(path.parent.name)


def _plan(config: Mapping[str, Any], method_name: str) -> None:
    """Print the merge plan; no weights are read, nothing is written."""
    from seme.plan import open_outline, plan_table  # noqa: PLC0415 (loads SeMe's alignment)

    check_entries(config)
    method = bind_method(config["method"])
    job = job_from_config(config, method_name, method, root=ROOT, opener=open_outline)
    kept = config["merged_dir"] or f"{config['output']}/scratch-{method_name}-plan"
    table = plan_table(job.plan(ROOT / kept), memory_budget=config["memory_budget"])
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def run_cell(config: Mapping[str, Any], *, method_name: str, group: str) -> Record:
    """Merge, evaluate, record, track; then score the unmerged models of the pool.

    Args:
        config: The resolved configuration in plain values.
        method_name: Stem of the method's file in ``conf/method``.
        group: Name of the group of runs this one belongs to.

    Returns:
        The record on disk; an earlier one if the run was done already.

    Raises:
        ValueError: If the configuration or a model cannot be used; says what to do.
    """
    check_entries(config)
    suite = suite_from_config(config["suite"], root=ROOT)
    job = job_from_config(config, method_name, bind_method(config["method"]), root=ROOT)
    cell = Cell(
        output=ROOT / config["output"],
        seed=job.settings.seed,
        dtype=config["dtype"],
        device=str(job.settings.device),
        suite=suite,
        tracker=config["tracker"],
        group=group,
        provenance=collect(),
        force=config["force"],
        progress=not config["quiet"] and sys.stderr.isatty(),
    )
    record = _merge_and_evaluate(cell, job, config["merged_dir"])
    if suite is not None:
        for model in job.models:
            _evaluate_unmerged(replace(cell, started=time.monotonic()), job, model)
    return record


def _merge_and_evaluate(cell: Cell, job: MergeJob, merged_dir: str | None) -> Record:
    """Merge into a scratch folder, or into one that is kept, and evaluate what came out."""
    draft = replace(
        cell.blank(job.method_name, job.identity()),
        settings=job.hyper_parameters(),
        models=job.described_models(),
    )
    with (
        cell.only_one(draft),
        cell.failure_recorded(draft, not_applicable=CheckpointMismatchError),
        cell.scratch(draft) as scratch,
    ):
        if merged_dir is None and not cell.force and (done := cell.found(draft)):
            _log.info("%s %s: done already", done.name, done.fingerprint[:12])
            return done
        merged = scratch if merged_dir is None else ROOT / merged_dir
        load(len(job.sources))
        with metered(cell.device) as merging:
            report = job.run(merged, progress=cell.progress)
        _tell(report, job)
        draft = replace(draft, merge=asdict(report), merge_cost=merging.cost)
        return cell.finish(draft, merged)


def _tell(report: MergeReport, job: MergeJob) -> None:
    """Show how SeMe aligned the sources."""
    if "sources" in report.diagnostics:
        names = [source.name for source in job.sources]
        console = Console(width=None if sys.stdout.isatty() else 100)
        console.print(source_table(report.diagnostics, names))


def _evaluate_unmerged(cell: Cell, job: MergeJob, model: NamedModel) -> None:
    """Score a model once, whatever pools it is in: its record is known by its content."""
    found = model.described()
    draft = replace(
        cell.blank(model.name, job.identity_of(model)),
        kind="reference",
        models={"pool": job.pool, "pivot": found, "sources": [], "references": []},
    )
    with cell.only_one(draft), cell.failure_recorded(draft), cell.scratch(draft) as scratch:
        if cell.found(draft) is None:
            cell.finish(draft, job.folder_of(model, scratch))


def _plain(config: DictConfig) -> dict[str, Any]:
    """Resolve a configuration; sums such as 0.1 + 0.2 are rounded before they reach a method."""
    if isinstance(config.tau, float):
        config.tau = round(config.tau, 12)
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key} cannot be resolved: {error.msg}") from error
    return {str(key): value for key, value in values.items()}  # type: ignore[union-attr]


if __name__ == "__main__":
    gc.freeze()  # what is imported stays to the end: at the exit nobody looks for garbage in it
    gc.enable()
    os.chdir(ROOT)
    try:
        main()
    except SystemExit as end:
        if end.code or sys.getprofile() is not None:  # a profile is shown at the very end
            raise
        leave()
