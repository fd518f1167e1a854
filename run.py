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
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

from eval.leaderboard import print_summary, write_leaderboard
from eval.meter import metered
from eval.results import Record, find_done, run_folder, write_record, write_whole
from eval.suite import Suite, suite_from_config
from seme.job import MergeJob, NamedModel, job_from_config
from seme.provenance import collect

ROOT = Path(__file__).resolve().parent
_METHOD_PACKAGES = ("seme.", "baselines.")
_log = logging.getLogger("run")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Run one cell; in a sweep a failed cell is recorded and the next one goes on."""
    context = HydraConfig.get()
    sweeping = context.mode == RunMode.MULTIRUN
    folder = Path(context.runtime.output_dir)
    group = folder.parent.name if sweeping else folder.name
    output = ROOT / config.output
    try:
        cell = _plain(config, method_name=context.runtime.choices["method"])
        run_cell(cell, output, group=group, record_bad_input=sweeping)
        error = None
    except Exception as caught:
        error = _described(caught)
        if not sweeping and not isinstance(caught, ValueError):
            raise
    write_whole(folder / "cell.json", json.dumps({"error": error}).encode())
    if sweeping:
        _log.info(error and f"failed: {error}" or "done")
    elif error:
        sys.exit(f"error: {error}")
    else:
        print_summary(write_leaderboard(output), Console())


def run_cell(
    config: Mapping[str, Any], output: Path, *, group: str, record_bad_input: bool
) -> Record:
    """Merge, evaluate, record, track; then score the unmerged models of the pool.

    Args:
        config: The resolved configuration, plain values, with ``method_name``.
        output: The results root.
        group: Name of the sweep.
        record_bad_input: Record also a failure before the run got its fingerprint.

    Returns:
        The record on disk; an earlier one if the run was done already.
    """
    draft = _draft(config)
    with _failure_recorded(output, draft if record_bad_input else None):
        suite = suite_from_config(config["suite"], root=ROOT)
        job = job_from_config(config, config["method_name"], _bind(config["method"]), root=ROOT)
        draft = replace(
            draft,
            fingerprint=_hash(job.identity() | {"suite": suite and suite.fingerprint()}),
            settings=job.hyper_parameters(),
            models=job.described_models(),
            suite=suite and suite.described(),
        )
    repeat = config["force"] or config["merged_dir"] is not None
    with _lock(output, draft):
        record = None if repeat else find_done(output, draft.name, draft.fingerprint)
        if record is None:
            with _failure_recorded(output, draft):
                record = _merge_and_evaluate(draft, job, suite, config, output, group)
        else:
            _log.info("%s %s: done already", draft.name, draft.fingerprint[:12])
    if suite is not None:
        for model in job.models:
            _evaluate_reference(model, job, suite, config, output, group)
    return record


def _merge_and_evaluate(
    draft: Record,
    job: MergeJob,
    suite: Suite | None,
    config: Mapping[str, Any],
    output: Path,
    group: str,
) -> Record:
    started, device = time.monotonic(), str(job.settings.device)
    scratch = output / "scratch" / f"{draft.name}-{draft.fingerprint[:12]}"
    merged = scratch if config["merged_dir"] is None else ROOT / config["merged_dir"]
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with metered(device) as merging:
            report = job.run(merged, progress=_shows_progress(config))
        draft = replace(draft, merge=asdict(report), merge_cost=merging.cost)
        return _finish(draft, merged, suite, config, output, group, started)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _evaluate_reference(
    model: NamedModel,
    job: MergeJob,
    suite: Suite,
    config: Mapping[str, Any],
    output: Path,
    group: str,
) -> None:
    """Score an unmerged model once; its record is found again by the content of its weights."""
    described = model.described()
    identity = {"reference": described["content_hash"], "suite": suite.fingerprint()}
    draft = replace(
        _draft(config),
        kind="reference",
        name=model.name,
        fingerprint=_hash(identity),
        settings={},
        models={"pool": job.pool, "pivot": described, "sources": []},
        suite=suite.described(),
    )
    with _lock(output, draft), _failure_recorded(output, draft):
        if find_done(output, draft.name, draft.fingerprint) is None:
            folder, started = model.checkpoint.path, time.monotonic()
            _finish(draft, folder, suite, config, output, group, started)


def _finish(
    draft: Record,
    model: Path,
    suite: Suite | None,
    config: Mapping[str, Any],
    output: Path,
    group: str,
    started: float,
) -> Record:
    """Evaluate a folder, write the record, and only then tell the tracker."""
    samples = None
    if suite is not None:
        from eval.harness import evaluate  # noqa: PLC0415  (a merge alone must not load lm-eval)

        device = str(job_device(config))
        with metered(device) as evaluating:
            found = evaluate(
                model, suite, device=device, seed=config["seed"], progress=_shows_progress(config)
            )
        samples = found.samples
        draft = replace(draft, scores=found.scores, evaluation_cost=evaluating.cost)
    record = replace(draft, status="done", error=None, seconds_total=time.monotonic() - started)
    path = write_record(output, record, samples)
    _track(record, path, config, group)
    return record
