"""Questions beyond the paper: gain over unmerged models, settings, selection, barriers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from eval.leaderboard.board import Board, Row
from eval.report.evidence import (
    Pair,
    PairedTest,
    chosen_settings,
    entries_of,
    grouped_tests,
    has_samples,
    is_validation,
    mean_of,
    panel_of_rows,
    pivot_row,
    source_rows,
    tests_of,
    title,
)
from eval.report.render import Table
from eval.report.tables import MOST_OPEN, chance, name_of, test_table
from eval.report.verdicts import significantly_ahead
from eval.statistics.compare import overall
from eval.statistics.resampling import RESAMPLES, SEED, bootstrap
from eval.statistics.scores import Estimate
from eval.tables import percent, points, with_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A question beyond the paper and its answer from the records."""

    question: str
    how: str
    """The test or measure that answers it."""
    finding: str
    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contrast:
    """Two rows that differ in one setting only."""

    board: Board
    factor: str
    row: Row
    reference: Row


def worth_merging(boards: Sequence[Board]) -> Answer | None:
    """Test every merge against its pivot and its best source; None if none can be tested."""
    against = {
        "the pivot alone": [pair for board in boards for pair in _against_pivot(board)],
        "the best source alone": [pair for board in boards for pair in _against_best(board)],
    }
    tests = {name: group for name, group in grouped_tests(against).items() if group}
    if not tests:
        return None
    tables = [test_table(f"against {name}", group) for name, group in tests.items()]
    return Answer(
        question="Is a merge better than a model that was not merged?",
        how="Every merge against the pivot, and against the source with the highest mean: "
        "two-sided paired permutation tests over documents, Holm's correction over all of "
        "them, 5 %.",
        finding=" ".join(_worth(name, group) for name, group in tests.items()),
        tables=tuple(table for table in tables if table is not None),
    )


def settings_that_matter(boards: Sequence[Board]) -> Answer | None:
    """Test runs that differ in one setting only; None without such runs."""
    contrasts = [contrast for board in boards for contrast in _contrasts(board)]
    tests = tests_of([(c.board, c.row, c.reference) for c in contrasts])
    if not tests:
        return None
    pairs = sorted(zip(contrasts, tests, strict=True), key=lambda pair: _factor(pair[0]))
    groups = [(key, list(of)) for key, of in groupby(pairs, key=lambda pair: _factor(pair[0]))]
    differs = {key: any(t.result.differs for _, t in of) for key, of in groups}
    return Answer(
        question="Which settings matter?",
        how="Runs of a method that differ in one setting only are compared with the one that "
        "has the setting's most frequent value: two-sided paired permutation test over "
        "documents, Holm's correction over all of them, 5 %. Where seeds repeat a setting, the "
        "lowest is taken.",
        finding=" ".join(_sentence(differs, matters) for matters in (True, False)).strip(),
        tables=(
            _factor_table({key: [t for _, t in of] for key, of in groups}),
            _contrast_table(pairs),
        ),
    )


def what_was_chosen(boards: Sequence[Board]) -> Answer | None:
    """List the settings chosen on the validation split; None without validation runs."""
    lines = [line for board in boards if is_validation(board) for line in _tried(board)]
    chosen = [f"{pool}: {run}" for pool, run, _, mark in lines if mark]
    if not lines:
        return None
    return Answer(
        question="Which settings does the validation split choose?",
        how="The highest mean over domains, averaged over seeds; of equal ones the simplest.",
        finding=f"{'; '.join(chosen)}.",
        tables=(Table(("models", "run", "mean, %", "chosen"), tuple(lines)),),
    )


def _against_pivot(board: Board) -> list[Pair]:
    pivot = pivot_row(board)
    if pivot is None or not has_samples(pivot):
        return []
    return [(board, row, pivot) for row in _merges(board)]


def _against_best(board: Board) -> list[Pair]:
    """Pair each merge with the best source, where all sources were scored."""
    sources = [row for row in source_rows(board) if has_samples(row)]
    if len(sources) < len(board.merges[0].record.models.sources):
        return []
    best = max(sources, key=mean_of)
    return [(board, row, best) for row in _merges(board)]


def _merges(board: Board) -> list[Row]:
    rows = [row for entry in entries_of(board.merges) for row in entry.scored]
    return [row for row in rows if has_samples(row)]


def _worth(name: str, tests: Sequence[PairedTest]) -> str:
    better = [t for t in tests if significantly_ahead(t.result)]
    worse = [t for t in tests if t.result.differs and t.result.difference.value < 0]
    best = max(tests, key=lambda test: test.result.difference.value)
    return (
        f"Against {name}, {len(better)} of {len(tests)} merges are significantly better and "
        f"{len(worse)} worse; the best difference is {points(best.result.difference.value)} "
        f"points ({name_of(best.first, best.board)} on {best.board.pool})."
    )


def _tried(board: Board) -> list[tuple[str, str, str, str]]:
    lines = []
    for entry in entries_of(board.merges):
        if entry.mean is not None:
            chosen = chosen_settings(board, [board], entry.method)
            mark = "chosen" if entry.rows[0].record.settings in chosen else ""
            lines.append((board.pool, entry.label, with_error(entry.mean), mark))
    return lines


def _contrasts(board: Board) -> list[_Contrast]:
    """Pairs of rows of a board that differ in one setting, one of them the reference."""
    firsts = [e.scored[0] for e in entries_of(board.merges) if e.scored]
    rows = [row for row in firsts if has_samples(row)]
    contrasts = []
    for method in dict.fromkeys(row.name for row in rows):
        of_method = [row for row in rows if row.name == method]
        for factor in sorted({key for row in of_method for key in row.record.settings}):
            contrasts += _factor_contrasts(board, factor, of_method)
    return contrasts


def _factor_contrasts(board: Board, factor: str, rows: Sequence[Row]) -> list[_Contrast]:
    """Contrasts of one setting, within every group of rows that agree in all others."""
    usual = _usual(factor, rows)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_others(row, factor), []).append(row)
    contrasts = []
    for group in groups.values():
        reference = next((row for row in group if _value(row, factor) == usual), group[0])
        contrasts += [
            _Contrast(board=board, factor=factor, row=row, reference=reference)
            for row in group
            if row is not reference
        ]
    return contrasts


def _usual(factor: str, rows: Sequence[Row]) -> str:
    """Most frequent value; of equally frequent ones the first."""
    values = [_value(row, factor) for row in rows]
    return max(values, key=values.count)


def _value(row: Row, factor: str) -> str:
    return _format(row.record.settings.get(factor))


def _others(row: Row, factor: str) -> str:
    """Settings and dtype that must agree for a contrast in ``factor``."""
    rest = {key: value for key, value in row.record.settings.items() if key != factor}
    return repr((sorted(rest.items()), row.record.dtype))


def _factor(contrast: _Contrast) -> tuple[str, str]:
    return contrast.row.name, contrast.factor


def _sentence(differs: Mapping[tuple[str, str], bool], matters: bool) -> str:
    named = [
        f"{title(m)}'s {factor}" for (m, factor), does in differs.items() if does is matters
    ]
    if not named:
        return ""
    start = "A difference was found for" if matters else "None was found for"
    return f"{start} {', '.join(named)}."


def _factor_table(groups: Mapping[tuple[str, str], Sequence[PairedTest]]) -> Table:
    header = ("method", "setting", "comparisons", "significant", "largest difference", "")
    rows = []
    for (method, factor), tests in groups.items():
        n = sum(test.result.differs for test in tests)
        largest = max(tests, key=lambda test: abs(test.result.difference.value)).result
        rows.append(
            (
                title(method),
                factor,
                str(len(tests)),
                str(n),
                with_error(largest.difference, points),
                "matters" if n else "no difference found",
            )
        )
    return Table(header, tuple(rows))


def _contrast_table(pairs: Sequence[tuple[_Contrast, PairedTest]]) -> Table:
    header = ("models", "run", "setting", "against", "difference", "p (Holm)", "")
    rows = tuple(
        (
            contrast.board.pool,
            name_of(contrast.reference, contrast.board),
            f"{contrast.factor}={_value(contrast.row, contrast.factor)}",
            _value(contrast.reference, contrast.factor),
            with_error(test.result.difference, points),
            chance(test.result.p_holm),
            "differs" if test.result.differs else "not told apart",
        )
        for contrast, test in pairs
    )
    folded = "one setting at a time" if len(rows) > MOST_OPEN else ""
    return Table(header, rows, folded=folded)


def _format(value: Any) -> str:  # noqa: ANN401 (any JSON)
    return f"{value:g}" if isinstance(value, float) else str(value)


def barriers(boards: Sequence[Board]) -> Answer | None:
    """Measure the barrier between a pivot and its only source at their midpoint.

    None where no midpoint was scored together with both.
    """
    midpoints = [
        (board, row, barrier) for board in boards for row, barrier in _midpoint_barriers(board)
    ]
    if not midpoints:
        return None
    least = min(midpoints, key=lambda midpoint: midpoint[2].value)
    within = sum(barrier.value <= 2 * barrier.stderr for _, _, barrier in midpoints)
    rows = tuple(_line(board, row, barrier) for board, row, barrier in midpoints)
    return Answer(
        question="Is there a barrier between the pivot and the source?",
        how="At the midpoint (one source, lam 0.5, nothing left out) the barrier is the mean "
        "of the pivot's and the source's score less the midpoint's (linear mode connectivity, "
        "Frankle et al., arXiv 1912.05671, in scores instead of losses). Errors are paired "
        "bootstraps.",
        finding=f"{len(midpoints) - within} of {len(midpoints)} midpoints lie more than two "
        f"standard errors below that mean. The smallest barrier is "
        f"{with_error(least[2], points)} points ({name_of(least[1], least[0])} on "
        f"{least[0].pool}).",
        tables=(Table(("models", "midpoint", "pivot", "source", "merge", "barrier"), rows),),
    )


def is_midpoint(row: Row) -> bool:
    """Check that a merge is the mean of its pivot and its only source."""
    settings = row.record.settings
    kept = settings.get("tau", settings.get("density"))
    one = len(row.record.models.sources) == 1
    return one and settings.get("lam") == 0.5 and kept in (None, 1)


def _midpoint_barriers(board: Board) -> list[tuple[Row, Estimate]]:
    """Midpoints with their barriers, smallest first."""
    rows = [row for row in board.merges if is_midpoint(row) and has_samples(row)]
    pivot, sources = pivot_row(board), source_rows(board)
    if not rows or pivot is None or len(sources) != 1 or not has_samples(pivot, *sources):
        return []
    panel = panel_of_rows([pivot, *sources, *rows])
    observed = overall(panel.observed())
    drawn = overall(bootstrap(panel, n_resamples=RESAMPLES, seed=SEED))
    ends = [row.record.fingerprint for row in (pivot, *sources)]
    estimates = []
    for row in rows:
        key = row.record.fingerprint
        value, resampled = ((t[ends[0]] + t[ends[1]]) / 2 - t[key] for t in (observed, drawn))
        estimate = Estimate(value=float(value), stderr=float(resampled.std(ddof=1)))
        estimates.append((row, estimate))
    return sorted(estimates, key=lambda pair: pair[1].value)


def _line(board: Board, row: Row, barrier: Estimate) -> tuple[str, ...]:
    ends = [pivot_row(board), *source_rows(board)]
    means = [end.mean.value for end in (*ends, row) if end is not None and end.mean is not None]
    label = name_of(row, board)
    return (board.pool, label, *map(percent, means), with_error(barrier, points))
