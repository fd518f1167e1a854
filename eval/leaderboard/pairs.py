"""Half-widths of the intervals of paired differences of a board's rows, packed for the page."""

import base64
import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from eval.leaderboard.board import Board
from eval.leaderboard.measures import panel_of
from eval.statistics.compare import LEVEL
from eval.statistics.pairs import paired_errors
from eval.statistics.resampling import SEED
from eval.statistics.samples import Panel

PAIR_RESAMPLES = 2_000
"""Bootstrap draws: they give standard errors only."""
_MOST_NUMBERS = 4_000_000
"""Half-widths of a board that a page holds, 5 MB."""
_SMALLEST = 1e-5
"""Half-widths under a thousandth of a point are written as 0."""
_LEVELS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """95 % intervals of the paired differences of every two of some rows of a board.

    The interval is the difference of the two scores, plus and minus its half-width: the normal
    quantile times the standard error of ``paired_errors``. It is not corrected for other pairs.
    """

    rows: tuple[str, ...]
    """Fingerprints."""
    columns: tuple[str, ...]
    """Tasks or groups; before them is the mean."""
    smallest: float
    """Half-width of level 1, a fraction; level 0 is none."""
    ratio: float
    """Half-width of a level in those of the level below: of 0.1 to 10 points 1.018, so that
    rounding costs less than the noise of the draws, 1.6 per cent."""
    half_widths: str
    """Base64 of levels, a byte each: for the mean and then each column, every row from the
    second on with each row before it."""


def pairs_of(board: Board) -> Pairs | None:
    """Compare every two complete rows of a board that have samples.

    Returns:
        None where no two rows can be compared. Of more rows than a page can hold, the
        unmerged models and the first merges.
    """
    panel = panel_of(board)
    if panel is None or len(panel.runs) < 2:
        return None
    return _packed(_first_runs(panel, _most_rows(1 + len(board.columns))))


def _most_rows(n_columns: int) -> int:
    """Largest number of rows with at most ``_MOST_NUMBERS`` numbers in all, at least 2."""
    return max(2, math.floor((1 + math.sqrt(1 + 8 * _MOST_NUMBERS / n_columns)) / 2))


def _first_runs(panel: Panel, n: int) -> Panel:
    """The first runs of a panel, on the same documents."""
    if len(panel.runs) <= n:
        return panel
    tasks = {name: replace(task, totals=task.totals[:n]) for name, task in panel.tasks.items()}
    return replace(panel, runs=panel.runs[:n], tasks=tasks)


def _packed(panel: Panel) -> Pairs:
    errors = paired_errors(panel, n_resamples=PAIR_RESAMPLES, seed=SEED)
    below = np.tril_indices(len(panel.runs), -1)
    each = np.stack([matrix[below] for matrix in (errors.mean, *errors.columns.values())])
    half_widths = NormalDist().inv_cdf(1 - LEVEL / 2) * each
    seen = half_widths[half_widths >= _SMALLEST]
    smallest, largest = (float(seen.min()), float(seen.max())) if seen.size else (1.0, 1.0)
    ratio = max((largest / smallest) ** (1 / (_LEVELS - 1)), 1 + 1e-9)
    levels = 1 + np.rint(np.log(np.maximum(half_widths, smallest) / smallest) / np.log(ratio))
    levels[half_widths < _SMALLEST] = 0
    return Pairs(
        rows=panel.runs,
        columns=tuple(errors.columns),
        smallest=smallest,
        ratio=ratio,
        half_widths=base64.b64encode(levels.astype(np.uint8).tobytes()).decode(),
    )
