"""One run from one config, or a sweep with -m: merge, evaluate, record, track.

python run.py method=ties tau=0.2
python run.py -m method=seme,ties tau=0.1,0.2
"""

import atexit
import gc
import os
import signal
import sys

if __name__ == "__main__":
    gc.disable()  # imports make no garbage; looking for it takes a quarter of a short merge
    interrupted = "\ninterrupted; finished runs are kept; the same command goes on\n"
    ending = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        ending.append(signal.SIGHUP)

    def leave_imports(number: int, _: object) -> None:
        """End at once: an exception in the midst of an import is not always passed on."""
        sys.stderr.write(interrupted)
        os._exit(128 + number)

    for ending_signal in ending:
        signal.signal(ending_signal, leave_imports)

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from eval.conclusion import conclude
from eval.configuration import check_aliases, config_folders, plain_values
from eval.evaluator import evaluator_from_config
from eval.folders import check_writable
from eval.meter import metered
from eval.override_errors import explain, unknown_entry
from eval.records import ModelRef, PoolRef, Record, atomic_write
from eval.runs import Cell, describe_error, mean_of, outcome
from eval.schema import build
from eval.suite import Suite, suite_from_config
from eval.sweep import cell_label, overrides_of
from eval.tracking.trackers import check_tracker
from seme.alignment.diagnosis import source_table
from seme.binding import bind_method
from seme.engine import MergeReport
from seme.interface import CheckpointMismatchError
from seme.job import MergeJob, NamedModel, job_from_config
from seme.kernels.warmup import load
from seme.pool import terms_of_pool
from seme.provenance import collect

ROOT = Path(__file__).resolve().parent
_log = logging.getLogger("run")
_GROUPS = {"method", "models", "suite", "evaluator", "tracker"}
_LIMITS = {"include", "exclude", "memory_budget"}
_VALUES = _LIMITS | {
    "tokens",
    "tau",
    "seed",
    "device",
    "dtype",
    "output",
    "merged_dir",
    "datasets_dir",
}
_SWITCHES = {"force", "plan", "quiet"}


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Run one cell; in a sweep a failed cell is recorded and the next one goes on."""
    hydra_config = HydraConfig.get()
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    folder = Path(hydra_config.runtime.output_dir)
    choices = hydra_config.runtime.choices
    overrides = " ".join(overrides_of(hydra_config))
    cell: dict[str, Any] = {"cell": overrides, "fingerprint": None, "error": None}
    label = str(choices.get("method"))
    if sweeping:
        uses_tau = "${tau}" in OmegaConf.to_yaml(config.get("method", {}))
        label = cell_label(
            label, overrides_of(hydra_config), hydra_config.job.num, uses_tau=uses_tau
        )
    try:
        values = plain_values(config)
        check_entries(values)
        _name_after_files(values, choices)
        if config.plan:
            _plan(values, choices["method"], label)
            return
        group = (folder.parent if sweeping else folder).name
        record = run_cell(values, method_name=choices["method"], group=group, label=label)
        cell["fingerprint"] = record.fingerprint
    except Exception as caught:
        if not isinstance(caught, ValueError | OSError):  # a fault of the program: show where
            _log.exception("%s", cell["cell"])
        cell["error"] = describe_error(caught)
        cell["refused"] = isinstance(caught, CheckpointMismatchError)
        if sweeping:
            kind = "not applicable" if cell["refused"] else "failed"
            _log.error("%s  %s: %s", label, kind, cell["error"].splitlines()[0])
    atomic_write(folder / "cell.json", json.dumps(cell).encode())
    if not sweeping:
        tasks = OmegaConf.select(config, "suite.tasks")
        conclude(ROOT, config.output, [cell], merge_only=not tasks)


def check_entries(config: Mapping[str, Any]) -> None:
    """Check the top level of a run's configuration.

    Raises:
        ValueError: If an entry is missing, nothing would read one, a switch is neither on nor
            off, or the evaluator or the tracker cannot be used.
    """
    expected = _GROUPS | _VALUES | _SWITCHES
    if unknown := sorted(config.keys() - expected):
        entries = [*expected, *(f"method.{key}" for key in config.get("method") or ())]
        raise ValueError(unknown_entry(unknown[0], entries))
    if missing := sorted(expected - config.keys()):
        raise ValueError(f"missing entries {missing}")
    for key in sorted(_SWITCHES):
        if not isinstance(config[key], bool):
            raise ValueError(f"{key} must be true or false, got {config[key]!r}")
    for key in ("merged_dir", "datasets_dir"):
        if not isinstance(config[key], str | None):
            raise ValueError(f"{key} must be a folder or null, got {config[key]!r}")
    evaluator_from_config(config["evaluator"])
    check_tracker(config["tracker"])


def _plan(config: Mapping[str, Any], method_name: str, label: str) -> None:
    """Print the plan of the merge and of the data; no weights are read, nothing is written."""
    from seme.outline import open_outline  # noqa: PLC0415 (loads the conversion of GGUF)
    from seme.plan import plan_merge, plan_table  # noqa: PLC0415 (loads SeMe's alignment)

    check_entries(config)
    suite = _suite(config)
    method = bind_method(config["method"])
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(
        label, *terms_of_pool(config["models"]), sep="\n", markup=False, highlight=False
    )
    job = job_from_config(config, method_name, method, root=ROOT, opener=open_outline)
    kept = config["merged_dir"] or f"{config['output']}/scratch-{method_name}-plan"
    sources = [source.checkpoint for source in job.sources]
    plan = plan_merge(job.method, job.base, sources, ROOT / kept, settings=job.settings)
    table = plan_table(plan, memory_budget=config["memory_budget"])
    console.print(table, markup=False, highlight=False)
    if suite is not None and (lacking := suite.evaluator.lacking()):
        console.print(lacking, markup=False, highlight=False, soft_wrap=True)
    if suite is not None and not suite.has_own_data:
        from eval.data_plan import plan_data  # noqa: PLC0415 (loads lm-eval)

        table, lines = plan_data(suite)
        console.print(table, *lines, sep="\n", soft_wrap=True, markup=False, highlight=False)


def run_cell(config: Mapping[str, Any], *, method_name: str, group: str, label: str) -> Record:
    """Merge, evaluate, record, track; then score the unmerged models of the pool.

    Args:
        config: The resolved configuration in plain values.
        method_name: Stem of the method's file in ``conf/method``.
        group: Name of the group of runs this one belongs to.
        label: What the line on the terminal calls the cell.

    Returns:
        The record on disk; an earlier one if the run was done already.

    Raises:
        ValueError: If the configuration or a model cannot be used; says what to do.
    """
    check_entries(config)
    if (kept := config["merged_dir"]) is not None:
        check_writable(ROOT / kept, entry=f"merged_dir={str(kept)[:200]}")
    suite = _suite(config)
    if suite is not None and (lacking := suite.evaluator.lacking()):
        raise ValueError(lacking)
    suite = _expanded(suite)
    job = job_from_config(config, method_name, bind_method(config["method"]), root=ROOT)
    if suite is not None:
        suite.evaluator.check_device(str(job.settings.device))
    if suite is not None and suite.chat_template:
        from eval.load import check_chat_template  # noqa: PLC0415 (loads transformers)

        for folder in job.tokenizer_folders:
            check_chat_template(folder, suite)
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
    record = _merge_and_evaluate(cell, job, config["merged_dir"], label)
    if suite is not None:
        for model in job.models:
            _evaluate_unmerged(replace(cell, started=time.monotonic()), job, model)
    return record


def _suite(config: Mapping[str, Any]) -> Suite | None:
    """Build the suite; None if nothing is evaluated."""
    return suite_from_config(
        config["suite"],
        root=ROOT,
        datasets_dir=config["datasets_dir"],
        evaluator=evaluator_from_config(config["evaluator"]),
    )


def _expanded(suite: Suite | None) -> Suite | None:
    """Expand the groups of a suite and pin its data; own tasks stay as they are."""
    if suite is None or suite.has_own_data:
        return suite
    from eval.tasks import expand  # noqa: PLC0415 (loads lm-eval)

    return expand(suite)


def _merge_and_evaluate(
    cell: Cell, job: MergeJob, merged_dir: str | None, label: str
) -> Record:
    """Merge into a scratch folder, or into one that is kept, and evaluate what came out."""
    draft = cell.draft(
        job.method_name,
        job.identity(),
        build(PoolRef, job.described_models()),
        settings=job.hyper_parameters(),
    )
    with cell.lock(draft):
        if merged_dir is None and not cell.force and (done := cell.find_done(draft)):
            _log.info("%s  done before%s", label, mean_of(done))
            cell.track(done)
            return done
        if cell.suite is not None:
            from eval.tasks import build_tasks  # noqa: PLC0415 (a merge alone loads no lm-eval)

            with Console(stderr=True, quiet=not cell.progress).status("loading the tasks"):
                build_tasks(cell.suite)  # a mistake in a task fails here and leaves no record
        with (
            cell.record_failure(draft, not_applicable=CheckpointMismatchError),
            cell.scratch(draft) as scratch,
        ):
            if merged_dir is None and (taken_up := cell.finish_scored(draft)):
                _log.info("%s%s", label, outcome(taken_up))
                return taken_up
            merged = scratch if merged_dir is None else ROOT / merged_dir
            load(len(job.sources))
            with metered(cell.device) as merging:
                report = job.run(merged, progress=cell.progress)
            _show_alignment(report, job)
            draft = replace(draft, merge=asdict(report), merge_cost=merging.cost)
            record = cell.finish(draft, merged)
        kept = f"  written to {merged_dir}"
        if merged_dir is None:
            kept = "  not kept (merged_dir=FOLDER keeps it)" if cell.suite is None else ""
        _log.info("%s%s%s", label, outcome(record), kept)
        return record


def _show_alignment(report: MergeReport, job: MergeJob) -> None:
    """Show how SeMe aligned the sources, where it had to."""
    sources = report.diagnostics.get("sources", [])
    if not all(source["identity_shortcut"] for source in sources):
        names = [source.name for source in job.sources]
        console = Console(width=None if sys.stdout.isatty() else 100)
        console.print(source_table(report.diagnostics, names))


def _evaluate_unmerged(cell: Cell, job: MergeJob, model: NamedModel) -> None:
    """Score a model once, whatever pools it is in: its record is known by its content."""
    pivot = build(ModelRef, model.described())
    models = PoolRef(pool=job.pool, pivot=pivot, sources=(), references=())
    draft = cell.draft(model.name, job.identity_of(model), models)
    with cell.lock(draft), cell.record_failure(draft), cell.scratch(draft) as scratch:
        if done := cell.find_done(draft):
            cell.track(done)
        else:
            record = cell.finish_scored(draft)
            record = record or cell.finish(draft, job.folder_of(model, scratch))
            _log.info("%s (unmerged)%s", model.name, outcome(record))


def _name_after_files(values: dict[str, Any], choices: Mapping[str, str]) -> None:
    """Name pool and suite after their files; several files of a group are refused."""
    for group in ("method", "suite", "models"):
        if group not in choices:  # group=[A,B]
            raise ValueError(
                f"{group} must be one file; -m {group}=A,B is a sweep over several"
            )
        if group != "method":
            values[group].setdefault("name", choices[group])


def leave() -> NoReturn:
    """End the process with 0, without taking the interpreter apart module by module.

    That takes a tenth of a short merge and frees nothing that the system does not.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    full_errors = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its own message and exits
    gc.freeze()  # what is imported stays to the end
    gc.enable()
    received = [signal.SIGINT]

    def interrupt(number: int, _: object) -> None:
        """End as by Ctrl-C; what is open is closed and removed on the way."""
        received[:] = [signal.Signals(number)]
        raise KeyboardInterrupt

    for ending_signal in ending:
        signal.signal(ending_signal, interrupt)
    os.chdir(ROOT)
    try:
        check_aliases(config_folders(sys.argv[1:], ROOT))
        main()
    except KeyboardInterrupt:
        sys.stderr.write(interrupted)
        sys.exit(128 + received[0])
    except (HydraException, OmegaConfBaseException, ValueError) as refused:
        if full_errors:
            raise
        sys.exit(f"error: {explain(refused, sys.argv[1:], ROOT / 'conf')}")
    except SystemExit as end:
        if end.code or sys.getprofile() is not None:  # a profile is shown at the very end
            raise
        leave()
