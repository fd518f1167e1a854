"""The barrier between a pivot and one source: what their midpoint loses."""

from collections.abc import Sequence

from eval.leaderboard.board import Row
from eval.report.document import Table
from eval.report.evidence import Ground
from eval.report.questions import Answer
from eval.report.tables import name_of, percent, points, with_error
from eval.statistics.compare import overall
from eval.statistics.resampling import RESAMPLES, SEED, bootstrap
from eval.statistics.scores import Estimate


def barriers(grounds: Sequence[Ground]) -> Answer | None:
    """Is the midpoint between the pivot and one source worse than their mean?

    None where no midpoint can be held against both.
    """
    found = [(ground, row, barrier) for ground in grounds for row, barrier in _of_board(ground)]
    if not found:
        return None
    least = min(found, key=lambda one: one[2].value)
    within = sum(barrier.value <= 2 * barrier.stderr for _, _, barrier in found)
    rows = tuple(_line(ground, row, barrier) for ground, row, barrier in found)
    return Answer(
        question="Is there a barrier between the pivot and the source?",
        how="At the midpoint (one source, lam 0.5, nothing left out) the barrier is the mean of "
        "the pivot's and the source's score less the midpoint's (linear mode connectivity, "
        "Frankle et al., arXiv 1912.05671, in scores instead of losses). Errors are paired "
        "bootstraps.",
        finding=f"{len(found) - within} of {len(found)} midpoints lie more than two standard "
        f"errors below that mean. The smallest barrier is {with_error(least[2], points)} points "
        f"({name_of(least[1], least[0].board)} on {least[0].board.pool}).",
        tables=(
            Table(
                ("models", "midpoint", "pivot", "source", "merge", "barrier"), rows, "barriers"
            ),
        ),
    )


def is_midpoint(row: Row) -> bool:
    """Whether a merge lies half-way between its pivot and its only source."""
    settings = row.record.settings
    kept = settings.get("tau", settings.get("density"))
    one = len(row.record.models.sources) == 1
    return one and settings.get("lam") == 0.5 and kept in (None, 1)


def _of_board(ground: Ground) -> list[tuple[Row, Estimate]]:
    """Midpoints with their barriers, the smallest first."""
    rows = [row for row in ground.board.merges if is_midpoint(row) and ground.has(row)]
    pivot, sources = ground.pivot, ground.sources
    if not rows or pivot is None or len(sources) != 1 or not ground.has(pivot, *sources):
        return []
    panel = ground.panel([pivot, *sources, *rows])
    observed = overall(panel.observed())
    drawn = overall(bootstrap(panel, n_resamples=RESAMPLES, seed=SEED))
    ends = [row.record.fingerprint for row in (pivot, *sources)]
    found = []
    for row in rows:
        key = row.record.fingerprint
        value, resampled = ((t[ends[0]] + t[ends[1]]) / 2 - t[key] for t in (observed, drawn))
        estimate = Estimate(value=float(value), stderr=float(resampled.std(ddof=1)))
        found.append((row, estimate))
    return sorted(found, key=lambda one: one[1].value)


def _line(ground: Ground, row: Row, barrier: Estimate) -> tuple[str, ...]:
    ends = [ground.pivot, *ground.sources]
    means = [end.mean.value for end in (*ends, row) if end is not None and end.mean is not None]
    label = name_of(row, ground.board)
    return (ground.board.pool, label, *map(percent, means), with_error(barrier, points))
