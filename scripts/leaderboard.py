"""Rebuild the leaderboards from the records: ``python -m scripts.leaderboard output=results``."""

import sys
from pathlib import Path

from eval.leaderboard import write_leaderboard
from eval.pages.page import write_page
from eval.statistics.standing import standings_of

_USAGE = "usage: python -m scripts.leaderboard [output=RESULTS_FOLDER]"


def main(arguments: list[str]) -> int:
    """Write ``leaderboard.md``, ``.csv`` and ``.html``, and the figures of the latter.

    Args:
        arguments: Nothing, or ``output=FOLDER`` (default ``results``).

    Returns:
        0; 1 if a record cannot be read; 2 if the arguments cannot.
    """
    match [argument.partition("=") for argument in arguments]:
        case []:
            root = Path("results")
        case [("output", "=", folder)] if folder:
            root = Path(folder)
        case _:
            print(f"{_USAGE}, got {' '.join(arguments)}", file=sys.stderr)
            return 2
    if not root.is_dir():
        print(f"output must be a results folder, {root} is absent", file=sys.stderr)
        return 1
    try:
        boards = write_leaderboard(root)
        write_page(root, boards, standings_of(root, boards))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    n_rows = sum(len(board.rows) for board in boards)
    print(
        f"{n_rows} records in {root / 'leaderboard'}.md, .csv and .html, and {root / 'figures'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
