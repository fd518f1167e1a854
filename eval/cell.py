"""A run on its way to a record: found if done already, alone while it runs, never lost."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from eval.meter import metered
from eval.results import Record, find_done, run_folder, write_record
from eval.suite import Suite

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One configuration: where its records go and how they are made."""

    output: Path
    """The results root."""
    pool: str
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
    """Repeat finished runs."""
    progress: bool
    started: float = field(default_factory=time.monotonic)

    def blank(self, name: str, fingerprint: str) -> Record:
        """A record that says only where it comes from, and that it has not ended well yet."""
        return Record(
            name=name,
            fingerprint=fingerprint,
            kind="merge",
            status="failed",
            error="did not finish",
            settings={},
            models={"pool": self.pool, "pivot": None, "sources": []},
            suite=None if self.suite is None else self.suite.described(),
            seed=self.seed,
            dtype=self.dtype,
            scores={},
            domains={} if self.suite is None else self.suite.domains,
            merge_cost=None,
            evaluation_cost=None,
            merge={},
            provenance=self.provenance,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds_total=0.0,
        )

    def only_one(self, draft: Record) -> FileLock:
        """Keep other processes off this run: the same cell of two sweeps runs once."""
        folder = run_folder(self.output, draft.name, draft.fingerprint)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(folder.with_suffix(".lock"))

    def found(self, draft: Record) -> Record | None:
        """The record of an earlier run, unless finished runs are to be repeated."""
        return None if self.force else find_done(self.output, draft.name, draft.fingerprint)

    @contextmanager
    def failure_recorded(self, draft: Record) -> Iterator[None]:
        """Record what goes wrong in the block, unless a finished record would be lost by it."""
        try:
            yield
        except Exception as error:
            if find_done(self.output, draft.name, draft.fingerprint) is None:
                write_record(self.output, replace(draft, error=described(error)), None)
            raise

    def finish(self, draft: Record, model: Path) -> Record:
        """Evaluate a model folder, write the record, and only then tell the tracker."""
        samples = None
        if self.suite is not None:
            from eval.harness import evaluate  # noqa: PLC0415 (a merge alone loads no lm-eval)

            with metered(self.device) as stage:
                found = evaluate(
                    model,
                    self.suite,
                    device=self.device,
                    seed=self.seed,
                    progress=self.progress,
                )
            samples = found.samples
            draft = replace(draft, scores=found.scores, evaluation_cost=stage.cost)
        seconds = time.monotonic() - self.started
        record = replace(draft, status="done", error=None, seconds_total=seconds)
        path = write_record(self.output, record, samples)
        self._track(record, path)
        return record

    def _track(self, record: Record, path: Path) -> None:
        if self.tracker["name"] == "none":
            return
        from eval.tracking import track  # noqa: PLC0415 (wandb is slow to load)

        folder = path.parent / "wandb"
        warning = track(record, path, tracker=self.tracker, group=self.group, folder=folder)
        if warning:
            _logger.warning(warning)


def described(error: Exception) -> str:
    """An error's message with the notes on where it happened."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return "\n".join([f"{kind}{error}", *getattr(error, "__notes__", [])])
