"""End of a single run or a sweep: the boards of its runs, its failures, the exit code."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.leaderboard.board import Board, boards_of
from eval.results_folder import Problem, load_results
from eval.tracking.trackers import hints
from eval.wording import describe_error


@contextmanager
def _saying_what_is_lost(output: str) -> Iterator[None]:
    """Exit where tables cannot be written, such as to a full disk; the records are there."""
    try:
        yield
    except OSError as error:
        sys.exit(
            f"error: {describe_error(error)}; the records are complete: "
            f"python -m scripts.leaderboard output={output} writes the tables again"
        )


def conclude(
    root: Path, output: str, cells: Sequence[Mapping[str, Any]], *, merge_only: bool = False
) -> None:
    """Show the boards of these runs, and exit with 1 if one failed or a record is invalid.

    A sweep also writes leaderboard.md and .csv, with tests over all samples; after a single run
    the table is made from the records alone, and the files are left to ``scripts.leaderboard``.
    In a sweep, a method that refused models of another shape has not failed: its row says so.

    Args:
        root: The repository's folder.
        output: The results folder, from there.
        cells: Of every run its overrides, the fingerprint of its record or None, its error or
            None, and whether it was refused.
        merge_only: Nothing was evaluated.
    """
    failed = [cell for cell in cells if cell["error"]]
    single = len(cells) == 1
    if single and failed:
        sys.exit(f"error: {failed[0]['error']}")
    if merge_only:  # nothing new to show, and merges start fast
        sys.exit(0)
    from eval.leaderboard.tables import (  # noqa: PLC0415 (pandas is slow to load)
        print_summary,
        problem_lines,
        read_leaderboard,
        write_tables,
    )

    if single:
        results = load_results(root / output, samples=False)
        boards: Sequence[Board] = boards_of(results.runs)
        problems: Sequence[Problem] = results.problems
    else:
        leaderboard = read_leaderboard(root / output)
        boards, problems = leaderboard.boards, leaderboard.problems
        with _saying_what_is_lost(output):
            write_tables(root / output, leaderboard)
    sys.stderr.write(problem_lines(Path(output), problems))
    console = Console(width=None if sys.stdout.isatty() else 100)
    fingerprints = {cell["fingerprint"] for cell in cells}
    own_boards = [
        b for b in boards if any(r.record.fingerprint in fingerprints for r in b.merges)
    ]
    print_summary(own_boards, console)
    refused = [cell for cell in failed if cell["refused"]]
    failed = [cell for cell in failed if not cell["refused"]]
    n_others = len(boards) - len(own_boards)
    others = f" and {n_others} other board{'s' * (n_others > 1)}" if n_others else ""
    if single:
        written = f"significance tests{others}: python -m scripts.leaderboard output={output}"
    else:
        counts = f"{len(cells)} runs, {len(failed)} failed, {len(refused)} not applicable"
        tables = f"rank bands{others}: {output}/leaderboard.md"
        written = f"{counts}; records: {output}/runs; {tables}"
    console.print(written, highlight=False, soft_wrap=True)
    for hint in hints(root / output):
        console.print(hint, highlight=False, markup=False, soft_wrap=True)
    for cell in failed:
        sys.stderr.write(f"error: {cell['cell']}: {cell['error']}\n")
    if failed or problems or not cells:
        sys.exit(1)
