"""One cell: merge, evaluate, record, track; then score the unmerged models of the pool."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.folders import check_writable
from eval.meter import metered
from eval.records import ModelRef, PoolRef, Record
from eval.runs import Cell
from eval.schema import build
from eval.suite import Suite
from eval.sweep import is_spread, seconds_left
from eval.wording import mean_of, outcome
from seme.alignment.diagnosis import source_table
from seme.binding import bind_method
from seme.engine import MergeReport
from seme.interface import CheckpointMismatchError
from seme.job import MergeJob, job_from_config
from seme.kernels.warmup import load
from seme.named_model import NamedModel
from seme.provenance import collect
from seme_bench.entries import check_entries, origin_of, suite_of
from seme_bench.folders import with_embedded
from seme_bench.interruption import finishing_run

_log = logging.getLogger("run")


def run_cell(
    config: Mapping[str, Any],
    *,
    method_name: str,
    group: str,
    label: str,
    root: Path,
    index: int | None = None,
    command: str = "",
) -> Record:
    """Merge, evaluate, record, track; then score the unmerged models of the pool.

    Args:
        config: The resolved configuration in plain values.
        method_name: Stem of the method's file in ``conf/method``.
        group: Name of the group of runs this one belongs to.
        label: What the lines on the terminal call the cell.
        root: Folder that relative folders start from.
        index: Place of the cell in a sweep, from 0; None for a single run.
        command: Command line of the cell alone, for its record.

    Returns:
        The record on disk; an earlier one if the run was done already.

    Raises:
        ValueError: If the configuration or a model cannot be used; says what to do.
    """
    check_entries(config)
    config = with_embedded(config, root)
    if (kept := config["merged_dir"]) is not None:
        check_writable(root / kept, entry=f"merged_dir={str(kept)[:200]}")
    if config["push"] is not None:
        from seme.publishing.push import check_push  # noqa: PLC0415 (loads pydantic)

        check_push(config["push"], kept)
    suite = suite_of(config, root)
    if suite is not None and (lacking := suite.evaluator.lacking()):
        raise ValueError(lacking)
    suite = _expanded(suite)
    job = job_from_config(config, method_name, bind_method(config["method"]), root=root)
    if suite is not None:
        suite.evaluator.check_device(str(job.settings.device))
    if suite is not None and suite.chat_template:
        from eval.load import check_chat_template  # noqa: PLC0415 (loads transformers)

        for folder in job.tokenizer_folders:
            check_chat_template(folder, suite)
    cell = Cell(
        output=root / config["output"],
        seed=job.settings.seed,
        dtype=config["dtype"],
        device=str(job.settings.device),
        suite=suite,
        tracker=config["tracker"],
        group=group,
        provenance=collect(),
        force=config["force"],
        progress=not config["quiet"] and sys.stderr.isatty() and not is_spread(),
        index=index,
        label=label,
        quiet=config["quiet"],
        origin=origin_of(command, kept, root),
    )
    is_scored = [] if suite is None else [_is_scored(cell, job, m) for m in job.models]
    n_unscored = is_scored.count(False)
    record = _merge_and_evaluate(
        cell,
        job,
        config=config,
        root=root,
        time_left=lambda record: _of_sweep(record, index, n_unscored),
    )
    waiting = list(enumerate(job.models)) if suite is not None else []
    while waiting:
        free = (m for m in waiting if not cell.is_taken(_draft_of(cell, job, m[1])))
        place, model = next(free, waiting[0])  # what other workers score comes last
        rest = _scoring_seconds(record) * sum(not is_scored[p] for p, _ in waiting)
        waiting.remove((place, model))
        nth = is_scored[: place + 1].count(False)
        title = f"{model.name} (unmerged), {nth} of {n_unscored}"
        fresh = replace(cell, started=time.monotonic(), label=title)
        _evaluate_unmerged(fresh, job, model, time_left=_left(rest))
    return record


def _expanded(suite: Suite | None) -> Suite | None:
    """Expand the groups of a suite and pin its data; own tasks stay as they are."""
    if suite is None or suite.has_own_data:
        return suite
    from eval.tasks import expand  # noqa: PLC0415 (loads lm-eval)

    return expand(suite)


def _merge_and_evaluate(
    cell: Cell,
    job: MergeJob,
    *,
    config: Mapping[str, Any],
    root: Path,
    time_left: Callable[[Record], str],
) -> Record:
    """Merge into a scratch folder, or into one that is kept, and evaluate what came out."""
    merged_dir = config["merged_dir"]
    draft = cell.draft(
        job.method_name,
        job.identity(),
        build(PoolRef, job.described_models()),
        settings=job.hyper_parameters(),
    )
    with cell.locked(draft) as cell:
        if merged_dir is None and not cell.force and (done := cell.find_done(draft)):
            _log.info("%s  done before%s", cell.label, mean_of(done))
            cell.track(done)
            return done
        with (
            finishing_run(),
            _tasks_built(cell),
            cell.record_failure(draft, not_applicable=CheckpointMismatchError),
            cell.scratch(draft) as scratch,
        ):
            if merged_dir is None and (taken_up := cell.finish_scored(draft)):
                _log.info("%s%s", cell.label, outcome(taken_up))
                return taken_up
            merged = scratch if merged_dir is None else root / merged_dir
            n_sources = len(job.sources)
            cell.say(f"merging {n_sources} source{'s' * (n_sources > 1)}")
            load(n_sources)
            with (
                _kept(merged, job, config, root) as destination,
                metered(cell.device) as merging,
            ):
                report = job.run(destination, progress=cell.bar)
            _show_alignment(report, job)
            draft = replace(draft, merge=asdict(report), merge_cost=merging.cost)
            record = cell.finish(draft, merged)
            if merged_dir is not None:
                _add_scores(merged, record)
        kept = f"  written to {merged_dir}"
        if merged_dir is None:
            kept = "  not kept (merged_dir=FOLDER keeps it)" if cell.suite is None else ""
        _log.info("%s%s%s%s", cell.label, outcome(record), kept, time_left(record))
        if config["push"] is not None:
            from seme.publishing.push import push  # noqa: PLC0415 (as above)

            _log.info("%s  uploaded: %s", cell.label, push(merged, config["push"]))
        return record


def _kept(
    merged: Path, job: MergeJob, config: Mapping[str, Any], root: Path
) -> AbstractContextManager[Path]:
    """Return where to merge to: a merge that is kept has a manifest and a card."""
    if config["merged_dir"] is None:
        return nullcontext(merged)
    from seme.publishing.kept_folder import kept_folder  # noqa: PLC0415 (loads pydantic)

    return kept_folder(merged, job, config, root=root)


def _add_scores(merged: Path, record: Record) -> None:
    """Add the scores of a kept merge to its card."""
    if record.scores:
        from eval.model_index import results_of  # noqa: PLC0415 (as above)
        from seme.publishing.kept_folder import add_scores  # noqa: PLC0415

        add_scores(merged, results_of(record))


@contextmanager
def _tasks_built(cell: Cell) -> Iterator[None]:
    """Build the tasks before the block: a mistake in a task fails here and leaves no record."""
    if cell.suite is not None:
        from eval.tasks import build_tasks  # noqa: PLC0415 (a merge alone loads no lm-eval)

        with Console(stderr=True, quiet=not cell.progress).status("loading the tasks"):
            build_tasks(cell.suite)
    yield


def _scoring_seconds(record: Record) -> float:
    return 0.0 if record.evaluation_cost is None else record.evaluation_cost.seconds


def _of_sweep(record: Record, index: int | None, n_unscored: int) -> str:
    """Say how long the other cells of the sweep take, and models to score before them."""
    if index is None:
        return ""
    scoring = _scoring_seconds(record)
    merging = 0.0 if record.merge_cost is None else record.merge_cost.seconds
    rest = seconds_left(index, merging + scoring)  # without what is loaded once
    return "" if rest is None else _left(rest + n_unscored * scoring)


def _left(seconds: float) -> str:
    """Say how long the rest takes, ``, about 4 min left``; nothing where nothing is left."""
    if seconds <= 0:
        return ""
    if seconds < 60:
        return f", about {max(1, round(seconds))} s left"
    minutes = round(seconds / 60)
    hours = f"{minutes // 60} h {minutes % 60:02d}" if minutes >= 60 else str(minutes)
    return f", about {hours} min left"


def _show_alignment(report: MergeReport, job: MergeJob) -> None:
    """Show how SeMe aligned the sources, where it had to."""
    sources = report.diagnostics.get("sources", [])
    if not all(source["identity_shortcut"] for source in sources):
        names = [source.name for source in job.sources]
        console = Console(width=None if sys.stdout.isatty() else 100)
        console.print(source_table(report.diagnostics, names))


def _draft_of(cell: Cell, job: MergeJob, model: NamedModel) -> Record:
    """Return the draft of an unmerged model's record."""
    pivot = build(ModelRef, model.described())
    models = PoolRef(pool=job.pool, pivot=pivot, sources=(), references=())
    return cell.draft(model.name, job.identity_of(model), models)


def _is_scored(cell: Cell, job: MergeJob, model: NamedModel) -> bool:
    return cell.find_done(_draft_of(cell, job, model)) is not None


def _evaluate_unmerged(cell: Cell, job: MergeJob, model: NamedModel, *, time_left: str) -> None:
    """Score a model once, whatever pools it is in: its record is known by its content."""
    draft = _draft_of(cell, job, model)
    with cell.locked(draft) as cell:
        if done := cell.find_done(draft):
            cell.track(done)
            return
        with finishing_run(), cell.record_failure(draft), cell.scratch(draft) as scratch:
            record = cell.finish_scored(draft)
            record = record or cell.finish(draft, job.folder_of(model, scratch), time_left)
            _log.info("%s (unmerged)%s", model.name, outcome(record))
