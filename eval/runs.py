"""One run: skip if done, lock, evaluate, record the result or the failure."""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rich.markup import escape

from eval.folders import LOCKS, run_lock
from eval.meter import metered
from eval.records import (
    RECORD_NAME,
    PoolRef,
    Record,
    SuiteRef,
    find_done,
    fingerprint_of,
    read_record,
    record_json,
    run_folder,
    write_record,
)
from eval.run_lock import RunLock, latest_claim
from eval.sample_file import Sample
from eval.schema import build
from eval.scored import SCORED_NAME, Scored, read_scored, where_kept, write_scored
from eval.suite import Suite
from eval.tracking.mirror import mirror
from eval.wording import describe_error

_logger = logging.getLogger(__name__)
ON_CONSOLE = "on_console"
"""Attribute of a line of the log, see :class:`OnConsole`."""


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
    """Tracker to its entries, as in ``conf/tracker``."""
    group: str
    """Name of the sweep."""
    provenance: Mapping[str, Any]
    force: bool
    """Repeat a finished run."""
    progress: bool
    """Show progress bars."""
    started: float = field(default_factory=time.monotonic)
    index: int | None = None
    """Place of the cell in its sweep, from 0; None for a single run."""
    label: str = ""
    """Title of the run in steps and progress bars."""
    quiet: bool = False
    """Steps go to the log file alone."""
    lock: RunLock | None = None
    """The lock of the run in hand, which tells others its steps."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """``command`` that repeats the run, and ``merged_dir`` where the merge is kept."""

    @property
    def bar(self) -> str:
        """Title of the run's progress bars, in rich's markup; empty for none."""
        return escape(self.label or "a run") if self.progress else ""

    def say(self, step: str) -> None:
        """Say what is begun: in the log file, and on a terminal where no bar shows it."""
        on_console = not (self.progress or self.quiet)
        _logger.info("%s  %s", self.label, step, extra={ON_CONSOLE: on_console})
        if self.lock is not None:
            self.lock.note(step)

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
            origin={k: v for k, v in self.origin.items() if settings or k != "merged_dir"},
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

    @contextmanager
    def locked(self, draft: Record) -> Iterator[Self]:
        """Lock this run for the block, and yield the cell whose steps others are told.

        The same cell of two sweeps, on any two hosts, runs once: the second one waits.
        """
        run = run_folder(self.output, draft.name, draft.fingerprint).name
        about = {"label": self.label, "sweep": self.group, "index": self.index}
        with run_lock(self.output, run, about=about, say=self._say_waiting) as lock:
            yield replace(self, lock=lock)

    def is_taken(self, draft: Record) -> bool:
        """Return True if a worker has this run now; it may have ended it a moment later."""
        run = run_folder(self.output, draft.name, draft.fingerprint).name
        claim = latest_claim(self.output / LOCKS / run)
        return claim is not None and not claim.is_free and not claim.is_dead(time.time())

    def _say_waiting(self, sentence: str) -> None:
        """Say that nothing is done now: no bar shows that."""
        _logger.info("%s  %s", self.label, sentence, extra={ON_CONSOLE: not self.quiet})

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
        """Record an exception raised in the block, unless a record would be lost by it.

        A finished one would be, or one beside kept scores: it was written with them.

        Args:
            draft: The record of the run.
            not_applicable: Exception of a method that cannot merge such models.
        """
        try:
            yield
        except Exception as error:
            refused = not_applicable is not None and isinstance(error, not_applicable)
            status = "not applicable" if refused else "failed"
            if self.find_done(draft) is None and not self._kept(draft).exists():
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
        """Evaluate a model folder, write the record, then log it to the trackers.

        Args:
            draft: The record so far.
            model: The folder.
            time_left: Said with the step, such as ``, about 3 min left``.
        """
        if self.suite is None:
            return self._record(draft, None)
        n_tasks = len(self.suite.tasks)
        of_tasks = f"{n_tasks} task{'s' * (n_tasks > 1)}"
        self.say(f"scoring on {self.suite.name}, {of_tasks}{time_left}")
        from eval.harness import score  # noqa: PLC0415 (a merge alone loads no lm-eval)

        with metered(self.device) as stage:
            scored = score(
                model, self.suite, device=self.device, seed=self.seed, progress=self.bar
            )
        evaluator = self.suite.evaluator.described(self.device)
        return self._record(
            replace(draft, evaluator=evaluator, evaluation_cost=stage.cost), scored
        )

    def finish_scored(self, draft: Record) -> Record | None:
        """Finish a run from the scores that an earlier process kept, without merge and scoring.

        Returns:
            The record; None if no scores were kept, or the run is to be repeated.
        """
        kept = self._kept(draft)
        if self.force:
            kept.unlink(missing_ok=True)
        if self.suite is None or not kept.exists():
            return None
        try:
            earlier, scored = read_record(kept.with_name(RECORD_NAME)), read_scored(kept)
        except ValueError as error:
            _logger.warning("%s; the run is repeated", error)
            kept.unlink()
            return None
        _logger.info("%s  takes up the scores kept in %s", draft.name, kept)
        more = {
            key: getattr(earlier, key)
            for key in ("merge", "merge_cost", "evaluation_cost", "evaluator")
        }
        return self._record(replace(draft, **more), scored)

    def _record(self, draft: Record, scored: Scored | None) -> Record:
        """Write the record of a run; the scores are kept if that fails."""
        try:
            evaluated, samples = draft, None
            if scored is not None:
                evaluated, samples = self._evaluated(draft, scored)
            seconds = time.monotonic() - self.started
            record = replace(evaluated, status="done", error=None, seconds_total=seconds)
            write_record(self.output, record, samples)
        except Exception as error:
            if scored is not None:
                self._keep(draft, scored, error)
            raise
        self._kept(draft).unlink(missing_ok=True)
        self.track(record)
        return record

    def _evaluated(
        self, draft: Record, scored: Scored
    ) -> tuple[Record, Mapping[str, list[Sample]]]:
        """Add scores and metrics to a record."""
        from eval.harness import evaluation_of  # noqa: PLC0415 (a merge alone loads no lm-eval)

        assert self.suite is not None, "scores are of a suite"
        evaluation = evaluation_of(self.suite, scored)
        suite = {
            **self.suite.described(),
            "tasks": {task.task: task.described() for task in evaluation.tasks},
            "task_versions": evaluation.versions,
            **({"groups": evaluation.groups} if evaluation.groups else {}),
            **({"caps": evaluation.caps} if evaluation.caps else {}),
        }
        evaluated = replace(
            draft,
            suite=build(SuiteRef, suite),
            scores=evaluation.scores,
            domains={task: draft.domains[task] for task in evaluation.scores},
            metrics=evaluation.metrics,
        )
        return evaluated, evaluation.samples

    def _keep(self, draft: Record, scored: Scored, error: Exception) -> None:
        """Write scores that could not be recorded, and the failure; the error says where."""
        if self.find_done(draft) is not None:
            return
        kept = self._kept(draft)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_scored(kept, scored)
            assert self.suite is not None, "scores are of a suite"
            has_own_tasks = self.suite.include_path is not None
            error.add_note(where_kept(kept.parent, has_own_tasks=has_own_tasks))
            failure = replace(
                draft,
                status="failed",
                error=describe_error(error),
                seconds_total=time.monotonic() - self.started,
            )
            write_record(self.output, failure, None)
        except (OSError, TypeError, ValueError) as second:
            kept.unlink(missing_ok=True)
            error.add_note(f"the scores could not be kept: {describe_error(second)}")

    def _kept(self, draft: Record) -> Path:
        return run_folder(self.output, draft.name, draft.fingerprint) / SCORED_NAME

    def track(self, record: Record) -> None:
        """Log a finished run to its trackers, from its record alone, unless that was done."""
        folder = run_folder(self.output, record.name, record.fingerprint)
        warning = mirror(record, folder, tracker=self.tracker, group=self.group)
        if warning is not None:
            _logger.warning(warning)
