"""Task vectors moved between models: sources with a base of their own, judged on their domain."""

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.leaderboard.board import Board, Row
from eval.records import ModelRef, Record
from eval.report.evidence import (
    SEME,
    PairedTest,
    has_samples,
    pivot_row,
    source_rows,
    tests_of,
    title,
)
from eval.report.render import Table
from eval.report.verdicts import Judgement, ahead_in_all, significantly_ahead
from eval.statistics.scores import domain_means
from eval.tables import points

MOVED = "moved"
"""Kind of a merge of an aligned task vector, whole and at its own length."""
_TOO = "activations as anchors too"
ACTIVATIONS = f"{MOVED}, {_TOO}"
"""Kind of the same, aligned by states on texts of the pivot besides."""
_ANCHORS = "alignment.anchors"
_BITS = "bits_per_byte"
_SHUFFLED = "alignment.shuffle_task_vectors"
_REFINED = "alignment.refine"
_UNITS = "alignment.match_units"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expert:
    """A source whose task vector is moved."""

    base: str
    """Name of what it was fine-tuned from."""
    domain: str
    """Domain on which it gains most over that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Merge:
    """A merge of one expert, and the board it is on."""

    expert: _Expert
    kind: str
    board: Board
    row: Row
    pivot: Row


def moved_claims(boards: Sequence[Board]) -> list[Judgement]:
    """Judge that a moved task vector beats the pivot on its expert's domain.

    Args:
        boards: All boards of an experiment.

    Returns:
        The claim; nothing where no source has a base of its own that is not in the pivot's frame.
    """
    merges = _merges(boards)
    if not any(merge.kind == MOVED for merge in merges):
        return []
    family = [merge for merge in merges if not _uses_activations(merge.row.record)]
    beside = [merge for merge in merges if _uses_activations(merge.row.record)]
    tested = _tested(family) + _tested(beside)
    pairs = sorted(tested, key=lambda pair: _order(pair[0]))
    judged = [test for merge, test in pairs if merge.kind == MOVED]
    claim = Judgement(
        claim="Moving a task vector between models without a common ancestor, or of different "
        "shapes, beats the pivot on the expert's domain.",
        rule="Sources with a base of their own that is not in the pivot's frame, merged by SeMe "
        "whole, at their own length (lam 1), not shuffled; each training seed counts. The "
        "expert's domain is the one on which it gains most over its base, in bits a byte where that "
        "is measured; one that gains nowhere is no expert and not judged. Supported if every "
        "such merge is significantly ahead of the pivot on the tasks of that domain (two-sided "
        "paired permutation tests over documents, Holm's correction over these and all "
        "controls, 5 %). Beside it, not judged and corrected apart: the same merges and controls "
        "with activations of the pivot's own texts as further anchors. Both ways are ours; the "
        "paper moves no task vectors.",
        verdict=ahead_in_all([test.result for test in judged]),
        finding=_finding(judged, pairs),
        evidence=_table(pairs),
    )
    return [claim]


def _merges(boards: Sequence[Board]) -> list[_Merge]:
    """List the merges of experts with a base of their own, and of the same experts without."""
    experts: dict[str, _Expert] = {}
    for board in boards:
        for row in board.merges:
            source = _own_source(row.record)
            if source is not None and (expert := _expert_on(board, source)) is not None:
                experts[source.content_hash] = expert
    merges = []
    for board in boards:
        pivot = pivot_row(board)
        for row in board.merges:
            sources = row.record.models.sources
            expert = experts.get(sources[0].content_hash) if len(sources) == 1 else None
            if expert is not None and pivot is not None and has_samples(row, pivot):
                kind = kind_of(row.record)
                merges.append(
                    _Merge(expert=expert, kind=kind, board=board, row=row, pivot=pivot)
                )
    return sorted(merges, key=_order)


def _order(merge: _Merge) -> tuple[tuple[str, str, str], str, bool, bool, str]:
    base, kind = merge.expert.base, merge.kind
    beside = _uses_activations(merge.row.record)
    return _domain_and_pivot(merge), base, kind != MOVED, not beside, kind


def _domain_and_pivot(merge: _Merge) -> tuple[str, str, str]:
    """Return what merges are shown together by; pivots of one name are kept apart."""
    content = merge.pivot.record.models.pivot.content_hash
    return merge.expert.domain, merge.pivot.name, content


def _tested(merges: Sequence[_Merge]) -> list[tuple[_Merge, PairedTest]]:
    """Compare merges with the pivot on the expert's domain, corrected over all of them."""
    tests = tests_of(
        [(merge.board, merge.row, merge.pivot) for merge in merges],
        domains={merge.board.key: merge.expert.domain for merge in merges},
    )
    return list(zip(merges, tests, strict=True))


def kind_of(record: Record) -> str:
    """Say in words what of a source was merged, and how."""
    if record.models.sources[0].base_hash is None:
        whole = f"whole source, {_lam(record)}"
        return f"{whole}, {_TOO}" if _uses_activations(record) else whole
    if record.name != SEME:
        return f"not aligned, {title(record.name)}"
    parts = [] if _own_source(record) else ["in the pivot's frame"]
    if record.settings.get(_SHUFFLED):
        parts.append("elements shuffled")
    if record.settings.get(_UNITS) == "never":
        parts.append("units not matched")
    if left_out := _left_out(record.settings.get("overrides")):
        parts.append(f"without {', '.join(left_out)}")
    if record.settings.get("lam") != 1:
        parts.append(_lam(record))
    if _uses_activations(record):
        return "; ".join([ACTIVATIONS, *parts])
    return "; ".join(parts) or MOVED


def _uses_activations(record: Record) -> bool:
    return record.settings.get(_ANCHORS) == "activations"


def _lam(record: Record) -> str:
    return f"lam {record.settings.get('lam')!s:.20}"


def _left_out(overrides: object) -> list[str]:
    """List the patterns of tensors whose scale is zero; malformed texts have none."""
    try:
        entries = json.loads(overrides) if isinstance(overrides, str) else []
    except ValueError:
        entries = []
    entries = entries if isinstance(entries, list) else []
    return [
        str(entry.get("match", "layers"))
        for entry in entries
        if isinstance(entry, dict) and entry.get("lam") == 0
    ]


def _own_source(record: Record) -> ModelRef | None:
    """Return the only source, if it has a base of its own that is not in the pivot's frame."""
    sources = record.models.sources
    if record.status != "done" or len(sources) != 1 or sources[0].base_hash is None:
        return None
    described = ((record.merge or {}).get("diagnostics") or {}).get("sources") or [{}]
    return None if described[0].get("identity_shortcut", True) else sources[0]


def _expert_on(board: Board, source: ModelRef) -> _Expert | None:
    """Name an expert's base and domain; None without a score or a gain."""
    expert = next(iter(source_rows(board)), None)
    base = next(
        (
            row
            for row in board.references
            if row.record.models.pivot.content_hash == source.base_hash
        ),
        None,
    )
    if expert is None or base is None or base.mean is None:
        return None
    gains = _gains(expert, base, board)
    domain = max(gains, key=lambda d: gains[d])
    return _Expert(base=base.name, domain=domain) if gains[domain] > 0 else None


def _gains(expert: Row, base: Row, board: Board) -> dict[str, float]:
    """Return what an expert gained over its base by domain: in bits, where there are any."""
    own, before = expert.record.scores, base.record.scores
    in_bits = {
        domain: before[task].raw - own[task].raw
        for task, domain in board.domains.items()
        if own[task].raw_metric == _BITS
    }
    if in_bits:
        return in_bits
    means = [domain_means(scores, board.domains, board.groups) for scores in (own, before)]
    return {domain: means[0][domain].value - means[1][domain].value for domain in means[0]}


def _finding(judged: Sequence[PairedTest], pairs: Sequence[tuple[_Merge, PairedTest]]) -> str:
    controls = [test for merge, test in pairs if merge.kind == "elements shuffled"]
    shuffled = sum(significantly_ahead(test.result) for test in controls)
    beside = f" Shuffled: {shuffled} of {len(controls)}." if controls else ""
    activations = [test for merge, test in pairs if merge.kind == ACTIVATIONS]
    if activations:
        beside += f" With activations as further anchors: {_ahead(activations)}."
    return f"{_ahead(judged)}.{beside}"


def _ahead(tests: Sequence[PairedTest]) -> str:
    gains = [test.result.difference.value for test in tests]
    ahead = sum(significantly_ahead(test.result) for test in tests)
    return (
        f"{ahead} of {len(tests)} merges are significantly ahead of the pivot on the expert's "
        f"domain, by {points(min(gains))} to {points(max(gains))} points"
    )


def _table(pairs: Sequence[tuple[_Merge, PairedTest]]) -> Table:
    """Rows of merges by base and kind, below the unmerged models of their domain and pivot."""
    groups: dict[tuple[tuple[str, str, str], str, str], list[tuple[_Merge, PairedTest]]]
    groups = defaultdict(list)
    for merge, test in pairs:
        groups[_domain_and_pivot(merge), merge.expert.base, merge.kind].append((merge, test))
    rows: list[tuple[str, ...]] = []
    previous = None
    for (place, base, kind), members in groups.items():
        domain, into, _ = place
        if place != previous:
            rows += _unmerged(domain, members[0][0])
        previous = place
        differences = [test.result.difference.value for _, test in members]
        ahead = sum(significantly_ahead(test.result) for _, test in members)
        rows.append(
            (
                domain,
                into,
                base,
                kind,
                str(len(members)),
                *_raw_scores([merge.row for merge, _ in members], members[0][0].board, domain),
                points(statistics.fmean(differences)),
                f"{ahead} of {len(members)}",
            )
        )
    raw = ("bits a byte", "answers, %", "bits a byte elsewhere")
    header = ("domain", "into", "from", "model", "merges", *raw)
    return Table((*header, "against the pivot, points", "ahead"), tuple(rows))


def _unmerged(domain: str, merge: _Merge) -> list[tuple[str, ...]]:
    """Rows of the pivot, and of the models on the board that are neither source nor base."""
    board = merge.board
    source = merge.row.record.models.sources[0]
    taken = {
        source.content_hash,
        source.base_hash,
        merge.pivot.record.models.pivot.content_hash,
    }
    ceilings = [
        row
        for row in board.references
        if row.record.models.pivot.content_hash not in taken and row.mean is not None
    ]
    return [
        (domain, merge.pivot.name, "", kind, "", *_raw_scores([row], board, domain), "", "")
        for kind, row in (
            ("the pivot", merge.pivot),
            *((f"expert of the pivot: {row.name}", row) for row in ceilings),
        )
    ]


def _raw_scores(rows: Sequence[Row], board: Board, domain: str) -> tuple[str, str, str]:
    """Mean over rows of the domain's bits a byte, of its other tasks, of other domains' bits."""

    def mean(tasks: Mapping[str, str], *, bits: bool, inside: bool) -> str:
        values = [
            row.record.scores[task].raw * (1 if bits else 100)
            for row in rows
            for task, of in tasks.items()
            if (of == domain) is inside
            and (inside or of in board.held_out)
            and (row.record.scores[task].raw_metric == _BITS) is bits
        ]
        return f"{statistics.fmean(values):.{3 if bits else 1}f}" if values else ""

    return (
        mean(board.domains, bits=True, inside=True),
        mean(board.domains, bits=False, inside=True),
        mean(board.domains, bits=True, inside=False),
    )
