"""Cells of a sweep, whoever runs them: ``python -m scripts.status output=results``."""

import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.run_lock import DEAD_AFTER
from eval.sweep_state import (
    ENDED,
    LOST,
    STATES,
    UNDER_WAY,
    CellState,
    SweepState,
    claims_of,
    sweep_state,
)

_USAGE = "usage: python -m scripts.status [output=RESULTS_FOLDER] [sweep=NAME|all]"
_COLUMNS = ("cell", "", "state", "host", "process", "since", "heartbeat", "stage")
_STYLES = {"running": "green", "failed": "red", "died": "red", "done": "dim"}
_LONGEST = 60
"""Characters of an error or a cell's name in a table."""


def main(arguments: list[str]) -> int:
    """Print what has become of every cell of the last sweep, and of those under way.

    A sweep none of whose cells has a place in the terminal, such as an old one, is one line.

    Args:
        arguments: ``output=FOLDER`` (default ``results``); ``sweep=NAME``, or ``sweep=all``.

    Returns:
        0; 1 if there is no such folder or sweep; 2 if the arguments cannot be read.
    """
    options = dict(argument.partition("=")[::2] for argument in arguments)
    if not options.keys() <= {"output", "sweep"} or not all(options.values()):
        print(f"{_USAGE}, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    root, wanted = Path(options.get("output", "results")), options.get("sweep")
    folders = sorted(path for path in root.glob("sweeps/*") if path.is_dir())
    if wanted not in (None, "all"):
        folders = [folder for folder in folders if folder.name == wanted]
    if not folders:
        missing = f"{root} has no sweep" + ("" if wanted in (None, "all") else f" {wanted}")
        print(f"error: {missing}: output must be a results folder", file=sys.stderr)
        return 1
    claims = claims_of(root)
    states = [sweep_state(folder, claims) for folder in folders]
    printed_states = [s for s in states[:-1] if wanted or s.count(*UNDER_WAY)] + states[-1:]
    console = Console(width=None if sys.stdout.isatty() else 1000)
    for state in printed_states:
        console.print(Text(_heading(state)))
        console.print(_table(state.cells))
    if len(printed_states) < len(states):
        n_more = len(states) - len(printed_states)
        text = f"{n_more} earlier sweep{'s' * (n_more > 1)} or runs: sweep=all"
        console.print(text, markup=False, highlight=False)
    return 0


def _heading(sweep: SweepState) -> str:
    """Count the cells of a sweep by state, and say whether its launcher lives."""
    counts = [f"{n} {state}" for state in STATES if (n := sweep.count(state))]
    by = ""
    if sweep.launched_by is not None:
        by = f"; launched by {sweep.launcher}, {sweep.launched_by.whose()}"
    elif sweep.count(*LOST):
        by = "; the same command goes on"
    return printable(f"{sweep.name}: {', '.join(counts)}{by}", 400)


def _table(cells: Iterable[CellState]) -> Table:
    """Make a table of the cells; plain text where it is piped."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in _COLUMNS:
        table.add_column(name, no_wrap=not sys.stdout.isatty())
    for cell in cells:
        row = [Text(printable(entry, _LONGEST)) for entry in _row(cell)]
        table.add_row(*row, style=_STYLES.get(cell.state))
    return table


def _row(cell: CellState) -> list[str]:
    """Return the entries of a cell's row, one for each column."""
    claim = cell.claim
    row = [str(cell.number), cell.title, cell.state]
    if claim is None or cell.state in ENDED:
        return [*row, "", "", "", "", cell.error.partition("\n")[0]]
    seconds = max(time.time() - claim.beat, 0.0)
    owner = claim.owner
    host, process = (owner.host, f"{owner.pid} {owner.user}") if owner else ("unknown", "")
    label = str(claim.about.get("label", ""))
    unmerged = f"{label.partition(',')[0]}: " if "(unmerged)" in label else ""
    late = "; taken over by the next worker" if seconds > DEAD_AFTER else ""
    stage = f"{unmerged}{claim.stage}{late if cell.state == 'died' else ''}"
    return [*row, host, process, _local(claim.since), f"{_ago(seconds)} ago", stage]


def _local(since: str) -> str:
    """Turn an ISO time into one of this machine's clock; as it stands if it is none."""
    try:
        return datetime.fromisoformat(since).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return since


def _ago(seconds: float) -> str:
    """Say a time in the largest unit that it fills twice: ``8 s``, ``5 min``, ``3 h``."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def printable(text: str, length: int) -> str:
    """Shorten a text of a file; what a terminal would obey becomes the replacement character."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= length else f"{text[: length - 3]}..."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
