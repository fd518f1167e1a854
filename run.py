"""One run from one config, or a sweep with -m: merge, evaluate, record, track.

python run.py method=ties tau=0.2
python run.py -m method=seme,ties tau=0.1,0.2
"""

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

from eval.cell import Cell, described
from eval.leaderboard import print_summary, write_leaderboard
from eval.meter import metered
from eval.results import Record, write_whole
from eval.suite import suite_from_config
from seme.job import MergeJob, NamedModel, job_from_config
from seme.provenance import collect

ROOT = Path(__file__).resolve().parent
_METHOD_PACKAGES = ("seme.", "baselines.")
_log = logging.getLogger("run")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Run one cell; in a sweep a failed cell is recorded and the next one goes on."""
    hydra_config = HydraConfig.get()
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    folder = Path(hydra_config.runtime.output_dir)
    error = None
    try:
        values = _plain(config) | {
            "method_name": hydra_config.runtime.choices["method"],
            "group": (folder.parent if sweeping else folder).name,
        }
        run_cell(values)
    except Exception as caught:
        if not sweeping and not isinstance(caught, ValueError):
            raise
        error = described(caught)
    if not sweeping and error:
        sys.exit(f"error: {error}")
    write_whole(folder / "cell.json", json.dumps({"error": error}).encode())
    if not sweeping:
        print_summary(write_leaderboard(ROOT / config.output), Console())


class SweepEnd(Callback):
    """Build the leaderboard when a sweep ends, and exit with 1 if a cell failed."""

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        """Called by Hydra once, in the process that launched the cells."""
        cells = sorted(Path(config.hydra.sweep.dir).glob("*/cell.json"))
        errors = [json.loads(cell.read_text())["error"] for cell in cells]
        failed = [error for error in errors if error]
        console = Console()
        print_summary(write_leaderboard(ROOT / config.output), console)
        console.print(
            f"{len(cells)} cells, {len(failed)} failed; records: {config.output}/runs"
        )
        for error in failed:
            console.print(f"failed: {error}", style="red", markup=False)
        if failed or not cells:
            sys.exit(1)


def run_cell(config: Mapping[str, Any]) -> Record:
    """Merge, evaluate, record, track; then score the unmerged models of the pool.

    Args:
        config: The resolved configuration in plain values, with the name of the method and
            of the group of runs this one belongs to.

    Returns:
        The record on disk; an earlier one if the run was done already.

    Raises:
        ValueError: If the configuration or a model cannot be used; says what to do.
    """
    suite = suite_from_config(config["suite"], root=ROOT)
    job = job_from_config(config, config["method_name"], _bind(config["method"]), root=ROOT)
    cell = Cell(
        output=ROOT / config["output"],
        pool=job.pool,
        seed=job.settings.seed,
        dtype=config["dtype"],
        device=str(job.settings.device),
        suite=suite,
        tracker=config["tracker"],
        group=config["group"],
        provenance=collect(),
        force=config["force"],
        progress=not config["quiet"] and sys.stderr.isatty(),
    )
    record = _merge_and_evaluate(cell, job, config["merged_dir"])
    if suite is not None:
        for model in job.models:
            _evaluate_unmerged(cell, model)
    return record


def _merge_and_evaluate(cell: Cell, job: MergeJob, merged_dir: str | None) -> Record:
    """Merge into a scratch folder, or into one that is kept, and evaluate what came out."""
    draft = replace(
        cell.blank(job.method_name, _fingerprint(cell, job.identity())),
        settings=job.hyper_parameters(),
        models=job.described_models(),
    )
    scratch = cell.output / "scratch" / f"{draft.name}-{draft.fingerprint[:12]}"
    with cell.only_one(draft), cell.failure_recorded(draft):
        if merged_dir is None and (done := cell.found(draft)):
            _log.info("%s %s: done already", done.name, done.fingerprint[:12])
            return done
        try:
            merged = scratch if merged_dir is None else ROOT / merged_dir
            shutil.rmtree(scratch, ignore_errors=True)
            with metered(cell.device) as merging:
                report = job.run(merged, progress=cell.progress)
            draft = replace(draft, merge=asdict(report), merge_cost=merging.cost)
            return cell.finish(draft, merged)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _evaluate_unmerged(cell: Cell, model: NamedModel) -> None:
    """Score a model of the pool once; its record is known by the content of its weights."""
    found = model.described()
    draft = replace(
        cell.blank(model.name, _fingerprint(cell, {"reference": found["content_hash"]})),
        kind="reference",
        models={"pool": cell.pool, "pivot": found, "sources": []},
    )
    with cell.only_one(draft), cell.failure_recorded(draft):
        if cell.found(draft) is None:
            cell.finish(draft, model.checkpoint.path)


def _bind(method: Mapping[str, Any]) -> partial[Tensor]:
    """Bind a method's hyper-parameters; only functions of our own packages are called."""
    target = str(method.get("_target_"))
    nested = [v for v in method.values() if isinstance(v, dict | list) and "_target_" in str(v)]
    if not target.startswith(_METHOD_PACKAGES) or nested:
        raise ValueError(
            f"a method has one _target_ and it is in {_METHOD_PACKAGES}, got {target} {nested}"
        )
    bound: partial[Tensor] = hydra.utils.instantiate(method, _partial_=True, _convert_="all")
    return bound


def _plain(config: DictConfig) -> dict[str, Any]:
    """Resolve a configuration; sums such as 0.1 + 0.2 are rounded before they reach a method."""
    if isinstance(config.tau, float):
        config.tau = round(config.tau, 12)
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return {str(key): value for key, value in values.items()}  # type: ignore[union-attr]


def _fingerprint(cell: Cell, identity: Mapping[str, Any]) -> str:
    """Name a run by what defines its numbers, as 32 hexadecimal digits."""
    suite = None if cell.suite is None else cell.suite.fingerprint()
    text = json.dumps({**identity, "suite": suite}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
