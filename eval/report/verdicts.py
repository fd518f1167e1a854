"""Verdict rules: pure functions from measurements to supported, not supported, not measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from eval.report.render import Table
from eval.statistics.compare import CorrectedComparison


class Verdict(StrEnum):
    """Outcome of a claim."""

    SUPPORTED = "supported"
    NOT_SUPPORTED = "not supported"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A claim with its rule, its verdict and the evidence."""

    claim: str
    rule: str
    verdict: Verdict
    finding: str
    """One sentence with the numbers; for a claim that was not measured, why not."""
    evidence: Table | None = None


def significantly_ahead(comparison: CorrectedComparison) -> bool:
    """True if the first run is better, significantly after Holm's correction."""
    return comparison.differs and comparison.difference.value > 0


def ahead_in_all(comparisons: Sequence[CorrectedComparison]) -> Verdict:
    """Supported if the first run is significantly ahead in every comparison.

    Not measured without comparisons; one that is not ahead is enough for not supported.
    """
    if not comparisons:
        return Verdict.NOT_MEASURED
    every = all(map(significantly_ahead, comparisons))
    return Verdict.SUPPORTED if every else Verdict.NOT_SUPPORTED


def ahead_once_in_each(groups: Sequence[Sequence[CorrectedComparison]]) -> Verdict:
    """Supported if in every group the first run is significantly ahead at least once.

    Groups without comparisons are ignored; without any other, the claim is not measured.
    """
    measured = [group for group in groups if group]
    if not measured:
        return Verdict.NOT_MEASURED
    every = all(any(map(significantly_ahead, group)) for group in measured)
    return Verdict.SUPPORTED if every else Verdict.NOT_SUPPORTED


def lower_than_each(cost: float | None, rival_costs: Mapping[str, float | None]) -> Verdict:
    """Supported if the cost is strictly below that of every rival.

    Args:
        cost: Median; None if not measured.
        rival_costs: Rival to median cost, None where not measured.

    Returns:
        Not supported as soon as one rival costs no more; not measured if none does
        but a cost is missing.
    """
    if cost is None:
        return Verdict.NOT_MEASURED
    if any(rival is not None and rival <= cost for rival in rival_costs.values()):
        return Verdict.NOT_SUPPORTED
    if not rival_costs or None in rival_costs.values():
        return Verdict.NOT_MEASURED
    return Verdict.SUPPORTED


def none_ahead(*sides: Sequence[CorrectedComparison]) -> Verdict:
    """Supported if the first run is significantly ahead in no comparison.

    Args:
        sides: Comparisons of runs outside a range with the best one inside, one sequence
            for each side of the range.

    Returns:
        Not supported as soon as one outside is ahead; not measured if none is but a side was
        not tried.
    """
    if any(significantly_ahead(comparison) for side in sides for comparison in side):
        return Verdict.NOT_SUPPORTED
    return Verdict.SUPPORTED if sides and all(sides) else Verdict.NOT_MEASURED


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """Combine the verdicts on one claim in several places.

    Not supported anywhere is not supported; else not measured anywhere is not measured.
    """
    if Verdict.NOT_SUPPORTED in verdicts:
        return Verdict.NOT_SUPPORTED
    if not verdicts or Verdict.NOT_MEASURED in verdicts:
        return Verdict.NOT_MEASURED
    return Verdict.SUPPORTED
