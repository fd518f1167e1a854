"""Rebuild the leaderboards from records: ``python -m scripts.leaderboard output=results``."""

import sys
from pathlib import Path

from eval.leaderboard.page import write_page
from eval.leaderboard.tables import problem_lines, read_leaderboard, write_tables
from eval.wording import describe_error
from seme_bench.repetition import command_of

_USAGE = "usage: python -m scripts.leaderboard [output=RESULTS_FOLDER]"


def main(arguments: list[str]) -> int:
    """Write ``leaderboard.md``, ``.csv`` and ``.html``, and the figures of the latter.

    Args:
        arguments: Nothing, or ``output=FOLDER`` (default ``results``).

    Returns:
        0; 1 if there is no such folder, a file cannot be written, or a record cannot be trusted,
        which does not stop the others; 2 if the arguments cannot be read.
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
    leaderboard = read_leaderboard(root)
    rows = [row for board in leaderboard.boards for row in board.rows]
    command_by_run = {row.record.fingerprint: command_of(row.record) for row in rows}
    commands = {key: command for key, command in command_by_run.items() if command is not None}
    try:
        write_tables(root, leaderboard)
        write_page(
            root,
            leaderboard.boards,
            leaderboard.standings,
            leaderboard.measures,
            leaderboard.problems,
            commands,
        )
    except OSError as error:
        print(f"error: {describe_error(error)}", file=sys.stderr)
        return 1
    print(
        f"{len(command_by_run)} records in {root / 'leaderboard'}.md, .csv and .html, and {root / 'figures'}"
    )
    sys.stderr.write(problem_lines(root, leaderboard.problems))
    return 1 if leaderboard.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
