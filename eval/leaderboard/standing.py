"""Rank bands and win probabilities of a board's merges, from paired tests over documents."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from eval.leaderboard.board import Board, Row
from eval.statistics.bands import rank_bands
from eval.statistics.compare import best_of, win_probabilities
from eval.statistics.resampling import RESAMPLES, SEED
from eval.statistics.samples import Panel, match


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
