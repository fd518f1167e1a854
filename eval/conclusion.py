"""What is told when all cells are done: the leaderboard, what failed, what is left to upload."""

import atexit
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from eval.tracking.wandb_run import upload_hint


def conclude(
    root: Path, output: str, cells: Sequence[Mapping[str, Any]], *, merge_only: bool = False
) -> None:
    """Write the leaderboard, show it, and exit with 1 if a run failed or a record is faulty.

    In a sweep, a method that refused models of another shape has not failed: its row says so.

    Args:
        root: The repository's folder.
        output: The results folder, from there.
        cells: Of every cell its overrides, its error or None, and whether it was refused.
        merge_only: Nothing was evaluated.
    """
    failed = [cell for cell in cells if cell["error"]]
    if merge_only:  # nothing new to show, and merges start fast
        sys.exit(f"error: {failed[0]['error']}" if failed else 0)
    from eval.leaderboard.tables import (  # noqa: PLC0415 (pandas is slow to load)
        faults_told,
        print_summary,
        read_leaderboard,
        write_tables,
    )

    found = read_leaderboard(root / output)
    write_tables(root / output, found)
    sys.stderr.write(faults_told(Path(output), found.faults))
    if len(cells) == 1 and failed:
        sys.exit(f"error: {failed[0]['error']}")
    console = Console(width=None if sys.stdout.isatty() else 100)
    print_summary(found.boards, console)
    refused = [cell for cell in failed if cell["refused"]]
    failed = [cell for cell in failed if not cell["refused"]]
    if len(cells) > 1:
        told = f"{len(cells)} cells, {len(failed)} failed, {len(refused)} not applicable"
        console.print(f"{told}; records: {output}/runs")
    if hint := upload_hint(root / output):
        console.print(hint, highlight=False, markup=False, soft_wrap=True)
    for cell in failed:
        sys.stderr.write(f"error: {cell['cell']}: {cell['error']}\n")
    if failed or found.faults or not cells:
        sys.exit(1)


def leave() -> NoReturn:
    """End this process with 0 at once, when all is written and its other threads have ended.

    What was registered for the exit is done; the interpreter is not taken apart module by
    module, which takes a twentieth of a merge and gives back nothing that the system does not.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
