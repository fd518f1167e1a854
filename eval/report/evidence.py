"""Boards with the documents behind their scores, and tests over several boards at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.leaderboard.board import Board, Row
from eval.statistics.compare import (
    Comparison,
    CorrectedComparison,
    compare,
    correct,
    resamples_for,
)
from eval.statistics.resampling import SEED
from eval.statistics.samples import Panel, Run, match


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One board, and its complete runs document by document."""

    board: Board
    runs: Mapping[str, Run]
    """Fingerprint to run, for those that have samples."""

    @property
    def pivot(self) -> Row | None:
        """The unmerged pivot, if it was scored."""
        return self.unmerged(self.board.merges[0].record.models.pivot.content_hash)

    @property
    def pivot_name(self) -> str:
        return self.board.merges[0].record.models.pivot.name

    @property
    def sources(self) -> list[Row]:
        """The unmerged sources that were scored, in order."""
        hashes = [m.content_hash for m in self.board.merges[0].record.models.sources]
        return [row for content in hashes if (row := self.unmerged(content)) is not None]

    def unmerged(self, content: str) -> Row | None:
        """The scored reference with this content."""
        for row in self.board.references:
            if row.record.models.pivot.content_hash == content and row.mean is not None:
                return row
        return None

    def has(self, *rows: Row) -> bool:
        """Whether the documents of all these rows are there."""
        return all(row.record.fingerprint in self.runs for row in rows)

    def panel(self, rows: Sequence[Row]) -> Panel:
        """The runs of these rows, matched by document and labelled by fingerprint.

        Raises:
            ValueError: If they did not see the same documents; names runs and task.
        """
        keys = dict.fromkeys(row.record.fingerprint for row in rows)
        return match({key: self.runs[key] for key in keys})


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """A paired test between two rows of one ground."""

    ground: Ground
    first: Row
    second: Row
    result: CorrectedComparison
    """Of the first minus the second."""

    __test__ = False  # not one of pytest's


def grounds_of(boards: Sequence[Board]) -> list[Ground]:
    """Take the complete runs of every board; those without samples are left out of the tests.

    Args:
        boards: From ``boards_of``, of the runs that ``load_results`` trusts.
    """
    return [
        Ground(
            board=board,
            runs={
                row.record.fingerprint: row.run
                for row in board.rows
                if row.mean is not None and row.run.samples is not None
            },
        )
        for board in boards
    ]


def tests_of(asked: Sequence[tuple[Ground, Row, Row]]) -> list[Test]:
    """Test all these pairs as one family.

    Each is a two-sided paired permutation test over the documents of its board; Holm's
    correction is over all of them together, whatever their boards.

    Args:
        asked: Ground and two of its rows whose documents are there.

    Returns:
        One test each, in the order given.

    Raises:
        ValueError: If the runs of a board cannot be compared; names them.
    """
    enough = resamples_for(len(asked))
    found: dict[int, Comparison] = {}
    for ground in {id(ground): ground for ground, _, _ in asked}.values():
        mine = {i: (a, b) for i, (of, a, b) in enumerate(asked) if of is ground}
        panel = ground.panel([row for pair in mine.values() for row in pair])
        pairs = [(a.record.fingerprint, b.record.fingerprint) for a, b in mine.values()]
        results = compare(panel, pairs, n_resamples=enough, seed=SEED)
        found |= dict(zip(mine, results, strict=True))
    corrected = correct([found[i] for i in range(len(asked))])
    return [
        Test(ground=ground, first=a, second=b, result=result)
        for (ground, a, b), result in zip(asked, corrected, strict=True)
    ]
