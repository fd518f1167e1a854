"""Boards: the records of one set of models on one suite, sorted and ranked."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.leaderboard.settings import identity_facts, in_common, settings_text, varies
from eval.records import Record
from eval.statistics.comparability import CPU_PRECISION, precision, tuned_on_test
from eval.statistics.samples import Run
from eval.statistics.scores import Estimate, Groups, columns_of, overall_mean
from eval.tables import alternatives

MARK = "†"
"""Mark after the settings of a row that was tuned on the test split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record on a board."""

    name: str
    """Method of a merge; name of an unmerged model in the board's pool."""
    rank: int | None
    """Rank among the complete merges, from 1; equal means share a rank. None: not ranked."""
    run: Run
    settings: str
    """Hyper-parameters as ``tau=0.1 lam=1``, less those that are null; seed and dtype where
    they vary on the board."""
    own_settings: str
    """Settings in which the board's rows of this method differ."""
    mean: Estimate | None
    """Mean over domains, each the mean of its tasks; None unless every task has a score."""
    tuned_on_test: bool
    """True if it is one of several settings of its method on the test split, and not the one
    that the validation split chooses; see ``eval.statistics.comparability.tuned_on_test``."""

    @property
    def record(self) -> Record:
        return self.run.record

    @property
    def marked_settings(self) -> str:
        """Its own settings, with a mark if it was tuned on the test split."""
        return (
            f"{self.own_settings} {MARK}".lstrip() if self.tuned_on_test else self.own_settings
        )

    @property
    def status(self) -> str:
        """``done``, or the status with the first line of the error."""
        if self.record.error is None:
            return "done"
        return f"{self.record.status}: {(self.record.error.splitlines() or ['no message'])[0]}"

    @property
    def absent(self) -> str:
        """Text in place of a missing score."""
        return {"failed": "failed", "not applicable": "n/a"}.get(self.record.status, "missing")

    @property
    def merge_seconds(self) -> float | None:
        cost = self.record.merge_cost
        return None if cost is None else cost.seconds

    @property
    def merge_bytes(self) -> int | None:
        """Peak RSS of the merge above its start."""
        cost = self.record.merge_cost
        return None if cost is None else cost.peak_rss_bytes - cost.base_rss_bytes

    @property
    def evaluation_seconds(self) -> float | None:
        cost = self.record.evaluation_cost
        return None if cost is None else cost.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """All merges of one set of models on one suite, and these models themselves."""

    pool: str
    models: str
    """Hash of the content of pivot and sources: pools of the same name are kept apart."""
    suite: str
    """Name of the suite, ``none`` for merges that were not evaluated."""
    split: str | None
    fingerprint: str | None
    """Fingerprint of the suite; None without one."""
    precision: str | None
    """Precision of the evaluation; None if nothing was evaluated."""
    held_out: tuple[str, ...]
    domains: dict[str, str]
    """Task to domain, in the suite's order."""
    groups: Groups
    """Groups of lm-eval to the shares of their subtasks."""
    reported: Mapping[str, str]
    """Task that is in no mean to its ``metric,filter``."""
    references: tuple[Row, ...]
    """Unmerged models: the pivot, the sources in order, the pool's references."""
    merges: tuple[Row, ...]

    @property
    def key(self) -> str:
        """Unique among boards and safe in a file's name: pool, suite, and a hash."""
        facts = [self.pool, self.models, self.fingerprint, self.precision]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]
        names = [re.sub(r"[^A-Za-z0-9]+", "-", name)[:40] for name in (self.pool, self.suite)]
        return "-".join([*names, digest])

    @property
    def title(self) -> str:
        """Suite and split; the precision where it is not that of the CPU."""
        if self.fingerprint is None:
            return "no suite"
        split = "" if self.split is None else f", split {self.split}"
        other = self.precision not in (None, CPU_PRECISION)
        return f"suite {self.suite}{split}" + (
            f", evaluated in {self.precision}" if other else ""
        )

    def n_documents(self, task: str) -> str:
        """Number of documents of a task; ``100 or 200`` where runs differ."""
        scores = [row.record.scores[task] for row in self.rows if task in row.record.scores]
        return alternatives(sorted({score.n for score in scores}))

    @property
    def shared_settings(self) -> dict[str, str]:
        """Method to the settings that all its rows have in common, for those that have any."""
        shared = {
            row.name: settings_text(_shared(self.merges, row.name)) for row in self.merges
        }
        return {name: settings for name, settings in sorted(shared.items()) if settings}

    @property
    def columns(self) -> dict[str, dict[str, float]]:
        """Columns of scores, in the suite's order: a group's subtasks and shares, or a task."""
        return columns_of(self.domains, self.groups)

    @property
    def evaluated(self) -> bool:
        return bool(self.domains or self.reported)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.domains)

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.references + self.merges


def boards_of(runs: Iterable[Run]) -> list[Board]:
    """Sort runs into boards and rank them; the order of the runs does not matter.

    An unmerged model is on every board whose merges name its content, whatever pool it was
    evaluated for. Runs evaluated in another precision have boards of their own; one that was
    not evaluated is on the first of its models and suite.
    """
    ordered = sorted(runs, key=lambda run: _order(run.record))
    merges = [run for run in ordered if run.record.kind == "merge"]
    marked = tuned_on_test([run.record for run in merges])
    unmerged = [run for run in ordered if run.record.kind == "reference"]
    groups = _grouped(merges)
    return [_board(groups[key], unmerged, marked, key[-1] or None) for key in sorted(groups)]


def _order(record: Record) -> tuple[bool, str, str, int, str]:
    """Sort key of a record: the columns of its row, then the fingerprint."""
    settings = json.dumps(record.settings)
    return record.status == "done", record.name, settings, record.seed, record.fingerprint


def _grouped(merges: Iterable[Run]) -> dict[tuple[str, str, str, str], list[Run]]:
    """Merges by pool, models, suite and precision."""
    groups: dict[tuple[str, str, str, str], list[Run]] = defaultdict(list)
    for run in merges:
        record = run.record
        suite = _suite_fingerprint(record) or ""
        place = record.models.pool, _models_hash(record), suite
        groups[*place, precision(record) or ""].append(run)
    for key in [key for key in groups if not key[-1]]:  # not evaluated: it fits any precision
        if others := sorted(k for k in groups if k[:-1] == key[:-1] and k != key):
            groups[others[0]] = groups.pop(key) + groups[others[0]]
    return groups


def _suite_fingerprint(record: Record) -> str | None:
    return None if record.suite is None else record.suite.fingerprint


def _models_hash(record: Record) -> str:
    """Name pivot and sources by their content, in eight hexadecimal digits."""
    return hashlib.sha256(record.models.content.encode()).hexdigest()[:8]


def _board(
    merges: list[Run],
    unmerged: Sequence[Run],
    marked: Mapping[str, bool],
    evaluated_in: str | None,
) -> Board:
    """One board; ``merges`` share models, suite and precision."""
    first = merges[0].record
    suite = first.suite
    names = _names(merges)
    references = _references(unmerged, names, _suite_fingerprint(first), evaluated_in)
    records = [run.record for run in (*merges, *references.values())]
    domains = _domains(records)
    groups = next((record.groups for record in records if record.groups), {})
    reported = {task: key for r in records for task, (key, _) in r.reported.items()}
    varying = [
        name for name in ("seed", "dtype") if varies([run.record for run in merges], name)
    ]
    facts = identity_facts([run.record for run in merges])
    rows = [
        _row(
            run,
            run.record.name,
            domains,
            groups,
            {key: getattr(run.record, key) for key in varying} | facts[run.record.fingerprint],
        )
        for run in merges
    ]
    rows = [replace(row, tuned_on_test=marked[row.record.fingerprint]) for row in rows]
    return Board(
        pool=first.models.pool,
        models=_models_hash(first),
        suite="none" if suite is None else suite.name,
        split=None if suite is None else suite.split,
        fingerprint=_suite_fingerprint(first),
        precision=evaluated_in,
        held_out=() if suite is None else suite.held_out,
        domains=domains,
        groups=groups,
        reported=dict(sorted(reported.items())),
        references=tuple(
            _row(run, names[content], domains, groups, {})
            for content, run in references.items()
        ),
        merges=_ranked(_with_own_settings(rows)),
    )


def _references(
    unmerged: Iterable[Run],
    names: Mapping[str, str],
    suite: str | None,
    evaluated_in: str | None,
) -> dict[str, Run]:
    """Content hash to run of the named models, in that order; a finished run wins."""
    by_content: dict[str, Run] = {}
    for run in unmerged:
        record = run.record
        fits = evaluated_in is None or precision(record) in (None, evaluated_in)
        if fits and _suite_fingerprint(record) == suite:
            by_content[record.models.pivot.content_hash] = run
    return {content: by_content[content] for content in names if content in by_content}


def _names(merges: Sequence[Run]) -> dict[str, str]:
    """Content hash to name of all models: the pivot, the sources, the references."""
    models = [*merges[0].record.models.merged]
    models += [model for merge in merges for model in merge.record.models.references]
    names: dict[str, str] = {}
    for model in models:
        names.setdefault(model.content_hash, model.name)
    return names


def _domains(records: Sequence[Record]) -> dict[str, str]:
    """Task to domain; scores are in the suite's order, the domains of a record are not."""
    scored = max(records, key=lambda record: len(record.scores)).scores
    finished = [record for record in records if record.status == "done"]
    domains = {t: domain for r in finished or records for t, domain in r.domains.items()}
    return {task: domains[task] for task in dict.fromkeys([*scored, *domains])}


def _row(
    run: Run, name: str, domains: Mapping[str, str], groups: Groups, extra: Mapping[str, Any]
) -> Row:
    """Return one row, not ranked; ``extra`` settings follow the record's own."""
    record = run.record
    settings = {**record.settings, **extra}
    complete = bool(domains) and record.scores.keys() >= domains.keys()
    usable = complete and record.status == "done"
    return Row(
        name=name,
        rank=None,
        run=run,
        settings=settings_text(settings),
        own_settings="",
        mean=overall_mean(record.scores, domains, groups) if usable else None,
        tuned_on_test=False,
    )


def _with_own_settings(rows: list[Row]) -> list[Row]:
    """Give each row the settings in which it differs from the others of its method."""
    return [
        replace(row, own_settings=" ".join(t for t in row.settings.split(" ") if t not in same))
        for row in rows
        for same in [settings_text(_shared(rows, row.name)).split(" ")]
    ]


def _shared(rows: Sequence[Row], method: str) -> dict[str, Any]:
    """Settings that have one value in all rows of a method."""
    return in_common([row.record.settings for row in rows if row.name == method])


def _ranked(rows: list[Row]) -> tuple[Row, ...]:
    """Rank complete merges by falling mean; then other finished ones, then the rest."""

    def place(row: Row) -> tuple[bool, bool, float]:
        value = 0.0 if row.mean is None else row.mean.value
        return row.record.status != "done", row.mean is None, -value

    means = [row.mean.value for row in rows if row.mean is not None]
    return tuple(
        replace(
            row, rank=None if row.mean is None else 1 + sum(m > row.mean.value for m in means)
        )
        for row in sorted(rows, key=place)
    )
