"""Rank band and measures of each merge of a board, from paired resampling of the documents."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from eval.leaderboard.board import Board, Row
from eval.statistics.bands import rank_bands
from eval.statistics.compare import best_of, win_probabilities
from eval.statistics.metrics import (
    LEADERBOARD_V2,
    Metric,
    Roles,
    above_chance,
    ceiling_share,
    estimate,
    forgetting,
    gap_closed,
    interference,
    normalised,
)
from eval.statistics.resampling import RESAMPLES, SEED, bootstrap
from eval.statistics.samples import Panel, match
from eval.statistics.scores import Estimate, domain_means

_MEASURE_RESAMPLES = 2_000
"""Fewer than ``RESAMPLES``: the draws give standard errors only."""
_SIGMAS = 2.0
"""Standard errors of a difference that a source must gain to be an expert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Result of paired tests over the same documents for one merge."""

    band: int
    """From 1; the tests find no difference between merges of a band and its leader."""
    better_than: Mapping[str, float]
    """Name of another run to the probability that this merge is better than it."""


def standings_of(boards: Sequence[Board]) -> dict[str, Standing]:
    """Compare the complete merges of every board with one another, the pivot, the best source.

    Args:
        boards: From ``boards_of``.

    Returns:
        Fingerprint of a merge to its standing; none for merges without samples.
    """
    standings: dict[str, Standing] = {}
    for board in boards:
        standings |= _board_standings(board)
    return standings


def panel_of(board: Board) -> Panel | None:
    """Every complete run of a board that has samples, by fingerprint; None without a merge."""
    rows = [row for row in board.rows if row.mean is not None and row.run.samples is not None]
    if not any(row.record.kind == "merge" for row in rows):
        return None
    return match({row.record.fingerprint: row.run for row in rows})


def _board_standings(board: Board) -> dict[str, Standing]:
    panel = panel_of(board)
    if panel is None:
        return {}
    merges = [row for row in board.merges if row.record.fingerprint in panel.runs]
    others = [row for row in board.references if row.record.fingerprint in panel.runs]
    ranked = [row.record.fingerprint for row in merges]
    rivals = _rivals(board, others, lambda names: best_of(panel, names))
    draws = {"n_resamples": RESAMPLES, "seed": SEED}
    bands = rank_bands(panel, ranked, **draws)
    chances = win_probabilities(panel, ranked, list(rivals), **draws)
    return {
        merge: Standing(
            band=bands[merge],
            better_than={name: chances[merge][rival] for rival, name in rivals.items()},
        )
        for merge in ranked
    }


def _rivals(
    board: Board, others: Sequence[Row], best: Callable[[Sequence[str]], str]
) -> dict[str, str]:
    """Fingerprint to name of the pivot and of the source that scores best, if scored."""
    models = board.merges[0].record.models
    by_content = {row.record.models.pivot.content_hash: row for row in others}
    pivot = by_content.get(models.pivot.content_hash)
    hashes = [source.content_hash for source in models.sources]
    sources = [by_content[h].record.fingerprint for h in hashes if h in by_content]
    chosen = [] if pivot is None else [pivot.record.fingerprint]
    chosen += [best(sources)] if sources else []
    names = {row.record.fingerprint: row.name for row in others}
    return {fingerprint: names[fingerprint] for fingerprint in chosen}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Column of a metric in the tables."""

    key: str
    """Its column in the CSV file."""
    label: str
    definition: str
    """Its definition in one line; the whole of it is that of ``eval.statistics.metrics``."""
    is_loss: bool = False
    """True if lower is better."""


MEASURES = (
    Measure(
        key="of_experts",
        label="of experts",
        definition="score relative to the expert's, on the expert's own tasks",
    ),
    Measure(
        key="of_gap",
        label="of gap",
        definition="gain on the base over the experts' gain, each on its own domain",
    ),
    Measure(
        key="of_ceiling",
        label="of ceiling",
        definition="gain on the base over that of the ceiling, the pool's reference model "
        "(trained on all domains), on these domains",
    ),
    Measure(
        key="forgetting",
        label="forgetting",
        definition="points lost against the base where no source was tuned (negative is a gain)",
        is_loss=True,
    ),
    Measure(
        key="interference",
        label="interference",
        definition="points lost against the experts, each on its own domain, gains not counted",
        is_loss=True,
    ),
    Measure(
        key="above_chance",
        label="above chance",
        definition="mean score from the level of guessing up, as the second Open LLM "
        "Leaderboard has it",
    ),
)
"""In the order of their columns."""

Measured = Mapping[str, Estimate]
"""Key of a measure to its value, a fraction; those that are not defined are left out."""


def measures_of(boards: Iterable[Board]) -> dict[str, Measured]:
    """Measure the complete merges of every board that have samples.

    Args:
        boards: From ``boards_of``.

    Returns:
        Fingerprint of a merge to its measures. What a measure needs may be absent: a pivot
        with scores, experts, a ceiling, held-out domains, a lower bound of every task, or a
        gap that no resample of the documents closes.
    """
    measures: dict[str, Measured] = {}
    for board in boards:
        panel = panel_of(board)
        if panel is not None:
            measures |= _board_measures(board, panel)
    return measures


def roles_of(board: Board, scored: Iterable[str]) -> Roles | None:
    """Assign base, experts and multitask upper bound of a board, by run fingerprint.

    The base is the pivot. A source is the expert of the domain of its name; each of the other
    sources, of the domain left over on which it gains most over the pivot, largest gains
    first, if it gains more than two standard errors on any. Held-out domains have no
    expert. The ceiling is the pool's reference model, the best of several.

    Args:
        board: From ``boards_of``.
        scored: Fingerprints of the runs that may have a role.

    Returns:
        The roles; None without a pivot or any expert.
    """
    known = set(scored)
    rows = {r.record.models.pivot.content_hash: r for r in board.references}
    rows = {h: row for h, row in rows.items() if row.record.fingerprint in known}
    models = board.merges[0].record.models
    base = rows.pop(models.pivot.content_hash, None)
    hashes = dict.fromkeys(source.content_hash for source in models.sources)
    sources = [rows.pop(content) for content in hashes if content in rows]
    if base is None or not (experts := _experts(board, base, sources)):
        return None
    others = sorted(rows.values(), key=lambda row: -_mean(row))
    return Roles(
        base=base.record.fingerprint,
        experts=experts,
        ceiling=others[0].record.fingerprint if others else None,
        held_out=board.held_out,
    )


def _experts(board: Board, base: Row, sources: Sequence[Row]) -> dict[str, str]:
    """Fingerprint of a source to the domain it is the expert of."""
    free = [d for d in dict.fromkeys(board.domains.values()) if d not in board.held_out]
    experts = {row.record.fingerprint: row.name for row in sources if row.name in free}
    before = domain_means(base.record.scores, board.domains, board.groups)
    gains = []
    for row in sources:
        after = domain_means(row.record.scores, board.domains, board.groups)
        for domain in free:
            gain = after[domain].value - before[domain].value
            if gain > _SIGMAS * math.hypot(after[domain].stderr, before[domain].stderr):
                gains.append((gain, row.record.fingerprint, domain))
    for _, source, domain in sorted(gains, key=lambda gain: -gain[0]):
        if source not in experts and domain not in experts.values():
            experts[source] = domain
    return experts


def _board_measures(board: Board, panel: Panel) -> dict[str, Measured]:
    metrics = _metrics(board, roles_of(board, panel.runs))
    if not metrics:
        return {}
    observed = panel.observed()
    resampled = bootstrap(panel, n_resamples=_MEASURE_RESAMPLES, seed=SEED)
    measures: dict[str, Measured] = {}
    for row in board.merges:
        run, measured = row.record.fingerprint, dict[str, Estimate]()
        for key, metric in metrics.items() if run in panel.runs else ():
            try:
                value = estimate(metric, run, observed=observed, resampled=resampled)
            except ValueError:  # not defined for these scores: its cell stays empty
                continue
            measured[key] = value
        if measured:
            measures[run] = measured
    return measures


def _metrics(board: Board, roles: Roles | None) -> dict[str, Metric]:
    """Key to metric, of those that may be defined on a board."""
    metrics: dict[str, Metric] = {}
    if roles is not None:
        metrics |= {
            "of_experts": partial(normalised, roles=roles),
            "of_gap": partial(gap_closed, roles=roles),
            "interference": partial(interference, roles=roles),
        }
        if roles.ceiling is not None:
            metrics["of_ceiling"] = partial(ceiling_share, roles=roles)
        if roles.held_out:
            metrics["forgetting"] = partial(forgetting, roles=roles)
    if board.domains.keys() <= LEADERBOARD_V2.keys():
        metrics["above_chance"] = partial(above_chance, lower=LEADERBOARD_V2)
    return metrics


def _mean(row: Row) -> float:
    """Mean score of a row that has one."""
    assert row.mean is not None
    return row.mean.value
