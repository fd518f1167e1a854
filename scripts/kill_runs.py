"""Kill sweeps at random moments, and run them side by side: results as of an undisturbed one.

``python -m scripts.kill_runs folder=FOLDER [kills=10] [signals=3] [pairs=2] [seed=0]``

Each trial starts a sweep over the embedded benchmark in a folder of its own, ends it by a signal
(at a moment drawn from its duration, or at an event such as a record being written), starts it
again, and compares: every record and sample file, the W&B runs, and what is left over.
"""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seme_bench.interruption import LINE, WAITS

_ROOT = Path(__file__).resolve().parent.parent
_SWEEP = (
    "-m",
    "method=average,ties",
    "models=custom",
    "models.pivot=eval/zoo/models/base",
    "models.sources=[eval/zoo/models/code]",
    "suite.limit=2",
    "quiet=true",
)
_TIMES = ("started_at", "seconds_total", "merge_cost", "evaluation_cost", "provenance")
_EVENTS = (
    "scratch-*",
    ".seme-writing-*",
    "runs/*/.samples.jsonl.gz.*",
    "runs/*/samples.jsonl.gz",
    "runs/*/record.json",
    "runs/*/wandb.json",
    "wandb/offline-run-*",
    ".leaderboard.*",
    "leaderboard.md",
)
"""Files that a sweep makes on its way; it is killed the moment one of them appears."""
_LEFT_OVER = ("*scratch-*", ".seme-writing-*", "**/.*.????????", ".leaderboard*")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DEFAULTS = {"kills": 10, "signals": 3, "pairs": 2, "seed": 0}
_USAGE = (
    "usage: python -m scripts.kill_runs folder=FOLDER [kills=N] [signals=N] [pairs=N] [seed=N]"
)


@dataclass(frozen=True, slots=True)
class Results:
    """Records and samples of a sweep, which must not depend on how it ended."""

    records: dict[str, Any]
    """Folder of a run to its record without times."""
    samples: dict[str, bytes]


def main(arguments: Sequence[str]) -> int:
    """Run all trials and print a line for each, and the counts.

    Args:
        arguments: ``folder=FOLDER``, absent or empty, and numbers of trials; ``signals`` is per
            kind of signal.

    Returns:
        0; 1 if a trial gave other results or left something over; 2 if the arguments are wrong.
    """
    options = dict(argument.partition("=")[::2] for argument in arguments)
    folder = Path(options.pop("folder", ""))
    if not options.keys() <= _DEFAULTS.keys() or folder == Path():
        print(f"{_USAGE}, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    numbers = {key: int(options.get(key, value)) for key, value in _DEFAULTS.items()}
    rng = random.Random(numbers["seed"])
    start = time.monotonic()
    whole = folder / "whole"
    _finish(whole)
    duration, expected = time.monotonic() - start, results_of(whole)
    print(f"undisturbed: {duration:.1f} s, {len(expected.records)} records", flush=True)
    faults = 0
    trials = [(signal.SIGKILL, i) for i in range(numbers["kills"])]
    trials += [(number, i) for number in _SIGNALS for i in range(numbers["signals"])]
    for number, i in trials:
        name = f"{number.name.lower()}-{i}"
        faults += _report(
            name, _interrupted(folder / name, number, duration, rng), folder, expected
        )
    for i in range(numbers["pairs"]):
        faults += _report(f"pair-{i}", _side_by_side(folder / f"pair-{i}"), folder, expected)
    print(f"{len(trials)} interruptions, {numbers['pairs']} pairs, {faults} faults")
    return 1 if faults else 0


def results_of(root: Path) -> Results:
    """Read the records, without times, and the samples of a results folder."""
    records = {}
    for path in sorted(root.glob("runs/*/record.json")):
        entries = json.loads(path.read_text(encoding="utf-8"))
        records[path.parent.name] = {k: v for k, v in entries.items() if k not in _TIMES}
    samples = sorted(root.glob("runs/*/samples.jsonl.gz"))
    return Results(records, {f.parent.name: gzip.decompress(f.read_bytes()) for f in samples})


def differences(root: Path, expected: Results) -> Iterator[str]:
    """Say in what a results folder differs from the undisturbed one, and what is left over."""
    results = results_of(root)
    for name in sorted(expected.records.keys() | results.records.keys()):
        if results.records.get(name) != expected.records.get(name):
            yield f"the record of {name} differs"
        if results.samples.get(name) != expected.samples.get(name):
            yield f"the samples of {name} differ"
    left = sorted({path for pattern in _LEFT_OVER for path in root.glob(pattern)})
    yield from (f"{path.relative_to(root)} is left over" for path in left)
    if not (root / "leaderboard.md").exists():
        yield "there is no leaderboard"
    runs = [path.name for path in root.glob("wandb/offline-run-*")]
    for marker in root.glob("runs/*/wandb.json"):
        entries = json.loads(marker.read_text(encoding="utf-8"))
        its_own = [name for name in runs if name.endswith(f"-{entries['run']}")]
        if entries["complete"] is not True or len(its_own) != 1:
            yield f"{marker.parent.name} has {len(its_own)} W&B runs, marked {entries}"
    if len(runs) != len(results.records):
        yield f"{len(runs)} W&B runs of {len(results.records)} records"


def _report(name: str, faults: Iterator[str], folder: Path, expected: Results) -> int:
    """Print the outcome of a trial; return 1 if it has a fault."""
    said = list(faults)
    said += differences(folder / name, expected)
    print(f"{name}: {'; '.join(said) or 'as undisturbed'}", flush=True)
    return 1 if said else 0


def _interrupted(
    root: Path, number: signal.Signals, duration: float, rng: random.Random
) -> Iterator[str]:
    """End a sweep by a signal, once or twice, then let it finish."""
    for _ in range(rng.choice((1, 1, 2))):
        event = rng.choice((None, *_EVENTS))
        child = _start(root)
        _wait(child, root, event, rng.uniform(0.0, 1.1 * duration))
        if child.poll() is None:
            whole_group = number is signal.SIGKILL and rng.random() < 0.5
            (os.killpg if whole_group else os.kill)(child.pid, number)
        _, error = child.communicate(timeout=600)
        if child.returncode == 0:
            continue  # it was faster
        if number is signal.SIGKILL:
            yield from () if child.returncode == -number else (f"exit {child.returncode}",)
        elif child.returncode != 128 + number or not _is_said(number, error):
            yield f"exit {child.returncode}, {error.strip()[-300:]!r} at {event}"
    yield from _finish(root)


def _is_said(number: signal.Signals, error: str) -> bool:
    """Return True for one line, and before it that of a Ctrl-C that waited for its run."""
    lines = [line for line in error.splitlines() if line]
    return lines == [LINE] or (number is signal.SIGINT and lines == [WAITS, LINE])


def _wait(child: subprocess.Popen[str], root: Path, event: str | None, seconds: float) -> None:
    """Wait until a path of this pattern is made anew, or for a time, or for the end."""
    before = set() if event is None else set(root.glob(event))
    deadline = time.monotonic() + (seconds if event is None else 600)
    while child.poll() is None and time.monotonic() < deadline:
        if event is not None and set(root.glob(event)) - before:
            return
        time.sleep(0.001 if event else 0.02)


def _side_by_side(root: Path) -> Iterator[str]:
    """Run two sweeps into one folder at the same time."""
    children = [_start(root), _start(root)]
    for child in children:
        output, error = child.communicate(timeout=1200)
        if child.returncode or "2 runs, 0 failed" not in output:
            yield f"exit {child.returncode}, {error.strip()[-300:]!r}"
    if len(list(root.glob("sweeps/*"))) != 2:
        yield "the two share a folder"


def _finish(root: Path) -> list[str]:
    """Run a sweep to its end; the faults of it."""
    child = _start(root)
    _, error = child.communicate(timeout=1200)
    return (
        [] if child.returncode == 0 else [f"exit {child.returncode}, {error.strip()[-300:]!r}"]
    )


def _start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(_ROOT / "run.py"), *_SWEEP, f"output={root.resolve()}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
