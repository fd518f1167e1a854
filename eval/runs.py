"""One run: skip if done, lock, record the result or the failure; the end of a sweep."""

import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console

from eval.folders import run_lock
from eval.leaderboard.board import Board, boards_of
from eval.meter import metered
from eval.records import (
    PoolRef,
    Record,
    SuiteRef,
    find_done,
    fingerprint_of,
    record_json,
    run_folder,
    write_record,
)
from eval.results_folder import Problem, load_results
from eval.schema import build
from eval.statistics.scores import overall_mean
from eval.suite import Suite
from eval.tables import with_error
from eval.tracking.mirror import mirror
from eval.tracking.wandb_run import upload_hint

_logger = logging.getLogger(__name__)
ON_CONSOLE = "on_console"
"""Attribute of a line of the log, see :class:`OnConsole`."""
_LONGEST_ERROR = 4000
"""Characters of an error that are kept."""


class OnConsole(logging.Filter):
    """Keep lines off the console that are for the log file alone, or that a bar shows."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for a line whose attribute ``on_console`` is false."""
        return bool(getattr(record, ON_CONSOLE, True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One configuration of a sweep: results folder, suite, tracker, provenance."""

    output: Path
    """The results root."""
    seed: int
    dtype: str | None
    device: str
    suite: Suite | None
    tracker: Mapping[str, Any]
    """The parsed file of ``conf/tracker``."""
    group: str
    """Name of the sweep."""
    provenance: Mapping[str, Any]
    force: bool
    """Repeat a finished run."""
    progress: bool
    """Show progress bars."""
    started: float = field(default_factory=time.monotonic)
    label: str = ""
    """What steps and progress bars call the run."""
    quiet: bool = False
    """Steps go to the log file alone."""

    @property
    def bar(self) -> str:
        """Description of the run's progress bars; empty for none."""
        return self.label or "a run" if self.progress else ""

    def say(self, step: str) -> None:
        """Say what is begun: in the log file, and on a terminal where no bar shows it."""
        on_console = not (self.progress or self.quiet)
        _logger.info("%s  %s", self.label, step, extra={ON_CONSOLE: on_console})

    def draft(
        self,
        name: str,
        identity: Mapping[str, Any],
        models: PoolRef,
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> Record:
        """Return the record of a run that has not finished.

        Args:
            name: Method of a merge, short name of an unmerged model.
            identity: What defines the weights, JSON-ready; with the suite it names the run.
            models: The models merged, or the unmerged model as pivot.
            settings: Hyper-parameters of a merge; None for an unmerged model.

        Raises:
            ValueError: If the record of the run could not be read again: nothing costly is done
                for it.
        """
        facts = self._facts(identity)
        draft = Record(
            name=name,
            fingerprint=fingerprint_of(facts),
            kind="reference" if settings is None else "merge",
            status="failed",
            error="did not finish",
            settings=settings or {},
            models=models,
            suite=None if self.suite is None else build(SuiteRef, self.suite.described()),
            seed=self.seed,
            dtype=self.dtype,
            scores={},
            domains={} if self.suite is None else self.suite.domains,
            merge_cost=None,
            evaluation_cost=None,
            merge={},
            provenance={**self.provenance, "identity": facts},
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds_total=0.0,
        )
        record_json(draft)
        return draft

    def _facts(self, identity: Mapping[str, Any]) -> Any:  # noqa: ANN401 (any JSON)
        """Add what defines the scores to what defines the weights.

        Where nothing is evaluated the device does not count. Off the CPU models are evaluated
        in another precision, unless the suite states one, so that their scores are those of
        another run.
        """
        facts = {
            **identity,
            "suite": None if self.suite is None else self.suite.fingerprint(),
        }
        if self.suite is not None and self.device != "cpu" and self.suite.dtype is None:
            facts["evaluated_in"] = self.dtype or "the checkpoint's precision"
        return json.loads(json.dumps(facts))  # as a record gives it back

    def lock(self, draft: Record) -> FileLock:
        """Lock this run: the same cell of two sweeps runs once."""
        folder = run_folder(self.output, draft.name, draft.fingerprint)
        return run_lock(self.output, folder.name)

    def find_done(self, draft: Record) -> Record | None:
        """Find the finished record of this run, also under another name of its model."""
        ending = f"-{draft.fingerprint[:12]}"
        names = [f.name.removesuffix(ending) for f in self.output.glob(f"runs/*{ending}")]
        records = (find_done(self.output, name, draft.fingerprint) for name in sorted(names))
        return next((record for record in records if record is not None), None)

    @contextmanager
    def record_failure(
        self, draft: Record, *, not_applicable: type[Exception] | None = None
    ) -> Iterator[None]:
        """Record an exception raised in the block, unless a finished record would be lost by it.

        Args:
            draft: The record of the run.
            not_applicable: Exception of a method that cannot merge such models.
        """
        try:
            yield
        except Exception as error:
            refused = not_applicable is not None and isinstance(error, not_applicable)
            status = "not applicable" if refused else "failed"
            if self.find_done(draft) is None:
                failure = replace(draft, status=status, error=describe_error(error))
                write_record(self.output, failure, None)
            raise

    @contextmanager
    def scratch(self, draft: Record) -> Iterator[Path]:
        """Yield the path of a scratch folder and delete it after the block."""
        folder = self.output / f"scratch-{draft.name}-{draft.fingerprint[:12]}"
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        try:
            yield folder
        except Exception as error:
            if folder.name in str(error):
                error.add_note(
                    f"{folder.name} was made for this run and is gone; its config.json is the "
                    "pivot's, or an adapter's base's: change that (merged_dir=FOLDER keeps a merge)"
                )
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def finish(self, draft: Record, model: Path, time_left: str = "") -> Record:
        """Evaluate a model folder, write the record, then log it to the tracker.

        Args:
            draft: The record so far.
            model: The folder.
            time_left: Said with the step, such as ``, about 3 min left``.
        """
        samples = None
        if self.suite is not None:
            n_tasks = len(self.suite.tasks)
            of_tasks = f"{n_tasks} task{'s' * (n_tasks > 1)}"
            self.say(f"scoring on {self.suite.name}, {of_tasks}{time_left}")
            from eval.harness import evaluate  # noqa: PLC0415 (a merge alone loads no lm-eval)

            with metered(self.device) as stage:
                evaluation = evaluate(
                    model,
                    self.suite,
                    device=self.device,
                    seed=self.seed,
                    progress=self.bar,
                )
            samples = evaluation.samples
            suite = {
                **self.suite.described(),
                "tasks": {task.task: task.described() for task in evaluation.tasks},
                "task_versions": evaluation.versions,
                **({"groups": evaluation.groups} if evaluation.groups else {}),
                **({"caps": evaluation.caps} if evaluation.caps else {}),
            }
            draft = replace(
                draft,
                suite=build(SuiteRef, suite),
                scores=evaluation.scores,
                domains={task: draft.domains[task] for task in evaluation.scores},
                metrics=evaluation.metrics,
                evaluator=self.suite.evaluator.described(self.device),
                evaluation_cost=stage.cost,
            )
        seconds = time.monotonic() - self.started
        record = replace(draft, status="done", error=None, seconds_total=seconds)
        write_record(self.output, record, samples)
        self.track(record)
        return record

    def track(self, record: Record) -> None:
        """Log a finished run to the tracker, from its record alone, unless that was done."""
        folder = run_folder(self.output, record.name, record.fingerprint)
        warning = mirror(record, folder, tracker=self.tracker, group=self.group)
        if warning is not None:
            _logger.warning(warning)


def outcome(record: Record) -> str:
    """Say what a run took and gave: ``  merged 0.3 s  scored 11 s  mean 39.33 ± 0.48``."""
    stages = (("merged", record.merge_cost), ("scored", record.evaluation_cost))
    seconds = [f"  {stage} {cost.seconds:.1f} s" for stage, cost in stages if cost is not None]
    return "".join(seconds) + mean_of(record)


def mean_of(record: Record) -> str:
    """Say a finished run's mean over domains in per cent, if it has one."""
    if record.suite is None or not record.domains:
        return ""
    mean = overall_mean(record.scores, record.domains, record.groups)
    return f"  mean {with_error(mean)}"


def describe_error(error: Exception) -> str:
    """Format an error with its notes, shortened, as text that a record can hold.

    Paths are relative to the working folder, or to ``~`` in the user's home.
    """
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    text = "\n".join([f"{kind}{error}", *getattr(error, "__notes__", [])])
    text = text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}..."
    text = text.encode(errors="backslashreplace").decode()
    for folder, prefix in ((str(Path.cwd()), ""), (str(Path("~").expanduser()), "~/")):
        if len(folder) > 1:
            text = re.sub(rf"(?<![\w./-]){re.escape(folder)}/", prefix, text)
    return text


@contextmanager
def _saying_what_is_lost(output: str) -> Iterator[None]:
    """Exit where tables cannot be written, such as to a full disk; the records are there."""
    try:
        yield
    except OSError as error:
        sys.exit(
            f"error: {describe_error(error)}; the records are complete: "
            f"python -m scripts.leaderboard output={output} writes the tables again"
        )


def conclude(
    root: Path, output: str, cells: Sequence[Mapping[str, Any]], *, merge_only: bool = False
) -> None:
    """Show the boards of these runs, and exit with 1 if one failed or a record is invalid.

    A sweep also writes leaderboard.md and .csv, with tests over all samples; after a single run
    the table is made from the records alone, and the files are left to ``scripts.leaderboard``.
    In a sweep, a method that refused models of another shape has not failed: its row says so.

    Args:
        root: The repository's folder.
        output: The results folder, from there.
        cells: Of every run its overrides, the fingerprint of its record or None, its error or
            None, and whether it was refused.
        merge_only: Nothing was evaluated.
    """
    failed = [cell for cell in cells if cell["error"]]
    single = len(cells) == 1
    if single and failed:
        sys.exit(f"error: {failed[0]['error']}")
    if merge_only:  # nothing new to show, and merges start fast
        sys.exit(0)
    from eval.leaderboard.tables import (  # noqa: PLC0415 (pandas is slow to load)
        print_summary,
        problem_lines,
        read_leaderboard,
        write_tables,
    )

    if single:
        results = load_results(root / output, samples=False)
        boards: Sequence[Board] = boards_of(results.runs)
        problems: Sequence[Problem] = results.problems
    else:
        leaderboard = read_leaderboard(root / output)
        boards, problems = leaderboard.boards, leaderboard.problems
        with _saying_what_is_lost(output):
            write_tables(root / output, leaderboard)
    sys.stderr.write(problem_lines(Path(output), problems))
    console = Console(width=None if sys.stdout.isatty() else 100)
    fingerprints = {cell["fingerprint"] for cell in cells}
    shown = [b for b in boards if any(r.record.fingerprint in fingerprints for r in b.merges)]
    print_summary(shown, console)
    refused = [cell for cell in failed if cell["refused"]]
    failed = [cell for cell in failed if not cell["refused"]]
    n_others = len(boards) - len(shown)
    others = f" and {n_others} other board{'s' * (n_others > 1)}" if n_others else ""
    if single:
        written = f"significance tests{others}: python -m scripts.leaderboard output={output}"
    else:
        counts = f"{len(cells)} runs, {len(failed)} failed, {len(refused)} not applicable"
        tables = f"rank bands{others}: {output}/leaderboard.md"
        written = f"{counts}; records: {output}/runs; {tables}"
    console.print(written, highlight=False, soft_wrap=True)
    if hint := upload_hint(root / output):
        console.print(hint, highlight=False, markup=False, soft_wrap=True)
    for cell in failed:
        sys.stderr.write(f"error: {cell['cell']}: {cell['error']}\n")
    if failed or problems or not cells:
        sys.exit(1)
